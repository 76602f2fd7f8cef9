"""`UpstreamChat`: any server that speaks OpenAI's chat completions, as a chat model.

A client of our own and not a provider's package: those keep some places of an answer and drop others, as their versions
please. Here one list says what is read (`serving.readable`), for `n` answers and log-probabilities alike; whatever it does not
know is left out.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr, SecretStr

from langchain_vlmguard.errors import UpstreamError, extra
from langchain_vlmguard.serving.assemble import Assembly
from langchain_vlmguard.serving.connections import LostConnections
from langchain_vlmguard.serving.http_errors import as_json
from langchain_vlmguard.serving.readable import message_of, usage_of
from langchain_vlmguard.serving.sse import EventParser, StreamFormatError
from langchain_vlmguard.serving.wire import to_wire

with extra("serve"):
    import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.verdict.records import Json


class UpstreamChat(BaseChatModel):
    """Asks an OpenAI-compatible server. It is used on the event loop alone, and belongs to one loop."""

    url: str
    """Up to and with `/v1`."""

    model: str
    key: SecretStr | None = None
    connect_seconds: float = 5.0
    answer_bytes: int = 16_000_000
    """Of an answer, unpacked."""

    hosted_tools: bool = True
    """Whether tools that the server runs itself may be offered to it."""

    _client: httpx.AsyncClient | None = PrivateAttr(default=None)
    _lost: LostConnections | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "upstream"

    @property
    def client(self) -> httpx.AsyncClient:
        """The connections to the server. No proxy of the environment, no redirect, no cookie."""
        if self._client is None:
            timeout = httpx.Timeout(None, connect=self.connect_seconds)
            limits = httpx.Limits(max_connections=None)
            transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
            self._client = httpx.AsyncClient(timeout=timeout, transport=transport, trust_env=False)
            self._lost = LostConnections(transport)
        return self._client

    async def open(self) -> None:
        """Get ready, which takes a moment, before the first request."""
        _ = self.client

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> NoReturn:
        msg = "UpstreamChat is asked on the event loop: use ainvoke"
        raise NotImplementedError(msg)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the interface's
        **kwargs: object,
    ) -> ChatResult:
        streamed = bool(kwargs.pop("streamed", False))
        body: Json = {**kwargs, "model": self.model, "messages": to_wire(messages)}
        if stop:
            body["stop"] = stop
        if streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        try:
            answer = await (self._streamed(body) if streamed else self._whole(body))
        except httpx.HTTPError as error:
            msg = f"the upstream cannot be reached, or broke off ({type(error).__name__})"
            raise UpstreamError(msg) from error
        return self._result(answer)

    async def _whole(self, body: Json) -> object:
        async with self._answer(body, "application/json") as response:
            return await self._read(response)

    async def _read(self, response: httpx.Response) -> object:
        raw = bytearray()
        async for piece in response.aiter_bytes():
            raw += piece
            self._check_size(len(raw))
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            msg = "the upstream's answer is no JSON"
            raise UpstreamError(msg) from error

    async def _streamed(self, body: Json) -> object:
        parser, assembly, came = EventParser(most=self.answer_bytes), Assembly(), 0
        async with self._answer(body, "text/event-stream") as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json":  # some servers stream only when they feel like it
                return await self._read(response)
            if kind != "text/event-stream":
                msg = "the upstream was asked for a stream and sent something else"
                raise UpstreamError(msg)
            try:
                async for piece in response.aiter_bytes():
                    came += len(piece)
                    self._check_size(came)
                    for event in parser.feed(piece):
                        assembly.add(event)
                    if assembly.is_done:
                        break
            except StreamFormatError as error:
                msg = f"the upstream's stream cannot be read: {error}"
                raise UpstreamError(msg) from error
        if not assembly.is_done and not parser.is_between_events:
            msg = "the upstream's stream ended inside an event"
            raise UpstreamError(msg)
        return assembly.answer()

    @asynccontextmanager
    async def _answer(self, body: Json, accept: str) -> AsyncIterator[httpx.Response]:
        """Send a request whose headers are ours alone, and yield an answer that is no error."""
        headers = {"accept": accept, "content-type": "application/json"}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key.get_secret_value()}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        try:
            async with self.client.stream("POST", url, content=as_json(body), headers=headers) as response:
                self.client.cookies.clear()
                if response.status_code != httpx.codes.OK:
                    msg = f"the upstream answered with status {response.status_code}"
                    wait = response.headers.get("retry-after", "")
                    raise UpstreamError(msg, response.status_code, int(wait) if wait.isdecimal() else None)
                yield response
        except asyncio.CancelledError:
            if self._lost is not None:
                self._lost.look()
            raise

    def _check_size(self, came: int) -> None:
        if came > self.answer_bytes:
            msg = f"the upstream's answer has more than {self.answer_bytes:,} bytes"
            raise UpstreamError(msg)

    def _result(self, answer: object) -> ChatResult:
        given = answer if isinstance(answer, dict) else {}
        choices = given.get("choices")
        if given.get("error") is not None or not isinstance(choices, list) or not choices:
            msg = "the upstream's answer holds no choice"
            raise UpstreamError(msg)
        usage = usage_of(given.get("usage"))
        # Tokens are counted once, with the first choice.
        messages = [message_of(one, self.model, None if at else usage) for at, one in enumerate(choices)]
        return ChatResult(generations=[ChatGeneration(message=one) for one in messages])
