"""`ChatSteeredVLM`: a local vision-language model as a LangChain chat model, steered or not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import get_config_list
from pydantic import Field, PrivateAttr, field_validator

from langchain_vlmguard.content.messages import ReadLimits
from langchain_vlmguard.models.answers import PROVIDER, Answer
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.generation import Request, Settings
from langchain_vlmguard.models.judging import AnswerJudge, processed_pictures, text_risks
from langchain_vlmguard.models.loading import LoadedVLM, load_vlm
from langchain_vlmguard.models.profile import read_profile
from langchain_vlmguard.models.tool_choice import (
    bound_tools,
    offered_names,
    required_grammar,
    structured_runnable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.tools import BaseTool
    from PIL import Image

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.screening import Screening
    from langchain_vlmguard.steering.steering import Steering


class ChatSteeredVLM(BaseChatModel):
    """A local Hugging Face image-text-to-text model behind LangChain's chat interface.

    The weights are loaded on first use. Pictures go through the model's own processor. Calls of any number of threads and
    tasks are answered together by continuous batching, each with its own settings, steering trace, callbacks and end;
    closing a stream or cancelling a task takes its row out within one token. Every answer reports usage, a finish reason
    and, when steering is on, the steering trace of its row.

    ??? example "Three lines"

        ```python
        model = ChatSteeredVLM.from_pretrained("testbed")
        answer = model.invoke("How do I make a kite?")
        answer.response_metadata["steering"]
        ```
    """

    model: str = "testbed"
    """A local folder, a hub id, or `"testbed"`."""

    steering: Any = "auto"
    """A `Steering`, `None` for the plain model, or `"auto"`: the choice that lies with the checkpoint, if any."""

    probe: Any = "auto"
    """A `TurnProbe` that clears whole turns in adaptive rewriting, `None`, or `"auto"`: the one that lies with the checkpoint."""

    device: str | None = None
    """Torch device; the GPU when there is one."""

    dtype: str = "auto"
    device_map: Any = None
    """How `from_pretrained` spreads the weights, e.g. `"auto"`; replaces `device`."""

    attn_implementation: str | None = None
    quantization_config: Any = Field(default=None, repr=False)
    """A quantization config of transformers, whose backend (bitsandbytes, torchao, ...) must be installed."""

    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters to load beside the model (needs `peft`), name to folder or hub id; all are off until named in `adapter`."""

    adapter: str | None = None
    """The adapter that answers are given with; a call may name another with `adapter=`."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Anything else for `from_pretrained`, e.g. `revision`."""

    max_tokens: int = Field(default=256, ge=1)
    """Most new tokens an answer may have."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    """Makes sampling repeatable, whoever else the model serves meanwhile."""

    n: int = Field(default=1, ge=1)
    """Answers to one prompt, all of them in `generate(...).generations`; the first alone from `invoke`. Streams give one."""

    stop: list[str] | None = None
    """Texts that end an answer; they may span tokens."""

    logprobs: bool = False
    """Report log-probabilities in `response_metadata["logprobs"]`, in OpenAI's form."""

    top_logprobs: int | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)
    """Seconds that an answer may take, waiting included; then `GenerationTimeoutError`."""

    batch_size: int = Field(default=16, ge=1)
    """Most rows that run together."""

    image_hosts: frozenset[str] = frozenset()
    """Hosts from which pictures are fetched by address, over https alone: `"img.example.com"`, `"*.example.com"`."""

    fetcher: Any = Field(default=None, exclude=True, repr=False)
    """A `PictureFetcher` with other limits."""

    @field_validator("steering")
    @classmethod
    def _known_steering(cls, given: Any) -> Any:
        if given is None or given == "auto" or hasattr(given, "attach"):
            return given
        msg = f"steering must be a Steering, 'auto' or None (off), got {given!r}"
        raise ValueError(msg)

    _loaded: LoadedVLM | None = PrivateAttr(default=None)
    _load_lock: Lock = PrivateAttr(default_factory=Lock)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        directions: SafetyDirections | str | None = None,
        steering: Steering | Literal["auto"] | None = "auto",
        **options: Any,
    ) -> Self:
        """Load a model now (rather than on first use).

        Args:
            model: A local folder, a hub id, or `"testbed"`.
            directions: Fitted directions, or a file of them, whose recommended steering is used.
            steering: A `Steering`, `None` for the plain model, or `"auto"`.
            options: Any other field of this class.

        Raises:
            DirectionsMismatchError: The directions belong to another model.
        """
        chat = cls(model=model, steering=steering, **options)
        loaded = chat.loaded
        if directions is not None:
            chat.steering = _recommended(directions, loaded)
        return chat

    @classmethod
    def from_loaded(cls, loaded: LoadedVLM, **options: Any) -> Self:
        """Wrap a model that is in memory already; several chat models may share one."""
        chat = cls(model=loaded.name, **options)
        chat._loaded = loaded
        return chat

    @property
    def loaded(self) -> LoadedVLM:
        """The model in memory, loaded behind a lock on first use."""
        if self._loaded is not None:
            return self._loaded
        with self._load_lock:
            if self._loaded is None:
                self._loaded = load_vlm(
                    self.model, device=self.device, dtype=self.dtype, adapters=self.adapters, **self._load_options
                )
            return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded is not None

    @property
    def _load_options(self) -> dict[str, Any]:
        named = ("device_map", "attn_implementation", "quantization_config")
        given = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        return {**self.model_kwargs, **given}

    @property
    def active_steering(self) -> Steering | None:
        """The steering that answers are given under, `"auto"` resolved."""
        if self.steering != "auto":
            return self.steering  # type: ignore[no-any-return]
        return self.loaded.recommended

    @property
    def screening(self) -> Screening | None:
        """What clears turns in adaptive rewriting; `None` without a steering that has a gate."""
        from langchain_vlmguard.steering.screening import Screening

        steering = self.active_steering
        if steering is None or not hasattr(steering, "read_gate"):
            return None
        return Screening(steering, self.loaded.probe if self.probe == "auto" else self.probe)

    @property
    def can_judge(self) -> bool:
        """Whether there is a steering whose gate can judge texts."""
        return self.active_steering is not None

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1], as a person's message of its own without any picture.

        This is the path on which the language model's alignment is whole: words from a picture are judged as if typed.

        Raises:
            ValueError: There is no steering.
        """
        steering = self.active_steering
        if steering is None:
            msg = "texts are judged by the steering's gate: give the model directions, or steering='auto' where it has some"
            raise ValueError(msg)
        rows = [to_chat_row([HumanMessage(text)], self.loaded.processor) for text in texts]
        return text_risks(self.loaded, rows, steering, batch_size=self.batch_size)

    @property
    def answer_judge(self) -> AnswerJudge | None:
        """What judges answers in words alone: the probe, where it was fitted on some."""
        probe = self.loaded.probe if self.probe == "auto" else self.probe
        return AnswerJudge(self.loaded, probe) if probe is not None and "answer" in probe.heads else None

    def seen_pictures(self, picture: Image.Image) -> list[Image.Image]:
        """Return a picture as the model sees it, after its processor's resizing: RGB, one or several tiles."""
        return processed_pictures(self.loaded, picture)

    @property
    def _llm_type(self) -> str:
        return "steered-vlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change an answer; LangChain's caches key on it."""
        steering = self.active_steering
        left_out = {"cache", "callbacks", "tags", "metadata", "rate_limiter", "verbose", "disable_streaming", "profile"}
        left_out |= {
            "steering",
            "probe",
            "timeout",
            "batch_size",
            "fetcher",
            "quantization_config",
            "custom_get_token_ids",
        }
        return {
            **{name: getattr(self, name) for name in sorted(type(self).model_fields.keys() - left_out)},
            "quantization_config": repr(self.quantization_config),
            "steering": steering.identity if steering else None,
            "screening": screening.identity if (screening := self.screening) else None,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = super()._get_ls_params(stop=stop, **kwargs)
        return {**given, "ls_provider": PROVIDER, "ls_model_name": kwargs.get("model", self.model)}

    def _resolve_model_profile(self) -> ModelProfile | None:
        return read_profile(self.model, self._loaded, urls=bool(self.image_hosts), options=self.model_kwargs)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model through its chat template.

        Args:
            tools: Tools in any form that LangChain knows.
            tool_choice: `"auto"` (default) leaves it to the model, `"none"` offers nothing, `"any"` (`"required"`, `True`)
                forces a call and a tool's name forces that tool; forced calls are valid by construction (extra
                `structured`).
            parallel_tool_calls: Whether a forced answer may hold several calls.
            kwargs: Bound to every call.

        Raises:
            ValueError: `tool_choice` names no offered tool.
            StructuredOutputError: The tool's schema cannot be enforced, or llguidance is not installed.
        """
        return self.bind(**bound_tools(tools, tool_choice=tool_choice, several=bool(parallel_tool_calls)), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers follow a schema, enforced token by token.

        Args:
            schema: A pydantic class, a `TypedDict`, or a JSON Schema with a title.
            include_raw: Give `{"raw", "parsed", "parsing_error"}` instead of the parsed value.
            method: `"function_calling"` shows the schema to the model as a tool and forces the call; `"json_schema"` forces
                an answer that follows it, without showing it; `"json_mode"` is the same here: where others promise JSON of
                any shape, the schema is at hand and enforced.
            kwargs: Bound to every call; `strict` is accepted, answers are always strict.

        Raises:
            StructuredOutputError: The schema cannot be enforced, or llguidance is not installed.
        """
        kwargs.pop("strict", None)
        return structured_runnable(self, schema, method=method, include_raw=include_raw, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> ChatResult:
        requests = self._requests(messages, stop, kwargs)
        self.loaded.scheduler.submit(*requests)
        try:
            return self._answer(kwargs).result([request.result() for request in requests])
        finally:
            _cancel(requests)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> ChatResult:
        requests = await asyncio.to_thread(self._requests, messages, stop, kwargs)
        self.loaded.scheduler.submit(*requests)
        try:
            rows = await asyncio.gather(*(asyncio.wrap_future(request.future) for request in requests))
        finally:
            _cancel(requests)
        return self._answer(kwargs).result(rows)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        pieces: SimpleQueue[str | None] = SimpleQueue()
        [request] = self._requests(messages, stop, {**kwargs, "n": 1})
        request.on_piece = pieces.put
        request.future.add_done_callback(lambda _: pieces.put(None))
        answer = self._answer(kwargs)
        self.loaded.scheduler.submit(request)
        try:
            while (piece := pieces.get()) is not None:
                for chunk in answer.piece(piece):
                    _report(run_manager, chunk)
                    yield chunk
            for chunk in answer.end(request.result()):
                _report(run_manager, chunk)
                yield chunk
        finally:
            request.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        [request] = await asyncio.to_thread(self._requests, messages, stop, {**kwargs, "n": 1})
        request.on_piece = lambda piece: _tell(loop, pieces, piece)
        request.future.add_done_callback(lambda _: _tell(loop, pieces, None))
        answer = self._answer(kwargs)
        self.loaded.scheduler.submit(request)
        try:
            while (piece := await pieces.get()) is not None:
                for chunk in answer.piece(piece):
                    await _areport(run_manager, chunk)
                    yield chunk
            for chunk in answer.end(request.result()):
                await _areport(run_manager, chunk)
                yield chunk
        finally:
            request.cancel()

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs, up to `batch_size` at a time; each keeps its own callbacks and trace."""
        configs = get_config_list(config, len(inputs))
        for one in configs:
            one["max_concurrency"] = one.get("max_concurrency") or self.batch_size
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs, up to twice `batch_size` on their way at a time."""
        configs = get_config_list(config, len(inputs))
        for one in configs:
            one["max_concurrency"] = one.get("max_concurrency") or 2 * self.batch_size
        return await super().abatch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def _row(self, messages: Sequence[BaseMessage], kwargs: dict[str, Any]) -> ChatRow:
        limits = None
        if self.image_hosts:
            fetching = {"fetcher": self.fetcher} if self.fetcher is not None else {}
            limits = ReadLimits(max_images=64, hosts=self.image_hosts, **fetching)
        return to_chat_row(messages, self.loaded.processor, tools=kwargs.get("tools"), limits=limits)

    def _requests(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> list[Request]:
        row, settings = self._row(messages, kwargs), self._settings(stop, kwargs)
        several = [settings] * kwargs.get("n", self.n)
        if settings.seed is not None:
            several = [replace(one, seed=settings.seed + index) for index, one in enumerate(several)]
        steering: Any = self._attached(kwargs)
        return [
            Request(self.loaded, row, one, steering, batch_size=self.batch_size, client=id(self)) for one in several
        ]

    def _settings(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Settings:
        def given(name: str) -> Any:
            return kwargs.get(name, getattr(self, name))

        max_tokens = kwargs.get("max_tokens") or self.max_tokens
        return Settings(
            max_tokens=max_tokens,
            temperature=given("temperature") or 0.0,
            top_p=given("top_p"),
            top_k=given("top_k"),
            seed=given("seed"),
            stop=tuple(stop or self.stop or ()),
            logprobs=(given("top_logprobs") or 0) if given("logprobs") else None,
            grammar=required_grammar(kwargs, max_tokens),
            markers=bool(kwargs.get("tools")),
            adapter=given("adapter"),
            until_gate=bool(kwargs.get("until_gate")),
            timeout=given("timeout"),
        )

    def _attached(self, kwargs: dict[str, Any]) -> Steering | Screening | None:
        """Return what acts on a call: the steering, what only reads its gate, or nothing, as the caller wants it."""
        if kwargs.get("unsteered"):
            return None
        screens = kwargs.get("until_gate") or kwargs.get("screened")
        return (self.screening if screens else None) or self.active_steering

    def _answer(self, kwargs: dict[str, Any]) -> Answer:
        return Answer(self.model, self._attached(kwargs), offered_names(kwargs))


def _recommended(directions: SafetyDirections | str, loaded: LoadedVLM) -> Steering:
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.steering import Steering

    found = SafetyDirections.load(directions) if isinstance(directions, str) else directions
    found.check(loaded.model)
    return Steering.recommended(found)


def _cancel(requests: Sequence[Request]) -> None:
    for request in requests:
        request.cancel()


def _tell(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[str | None], item: str | None) -> None:
    """Put an item on a queue of another thread's loop; a loop that is closed has nobody who waits."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, item)


def _report(run_manager: CallbackManagerForLLMRun | None, chunk: ChatGenerationChunk) -> None:
    if run_manager:
        run_manager.on_llm_new_token(chunk.text, chunk=chunk)


async def _areport(run_manager: AsyncCallbackManagerForLLMRun | None, chunk: ChatGenerationChunk) -> None:
    if run_manager:
        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
