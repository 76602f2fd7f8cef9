"""`ChatSteeredVLM`: a local vision-language model as a LangChain chat model, steered or not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import get_config_list
from pydantic import Field, InstanceOf, model_validator

from langchain_vlmguard.content.fetch import PictureFetcher  # noqa: TC001 - pydantic reads the annotations
from langchain_vlmguard.models.answers import PROVIDER, Answer
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.judging import AnswerJudge, processed_pictures, text_risks
from langchain_vlmguard.models.keywords import WITHOUT_EFFECT, check_known, own_names
from langchain_vlmguard.models.options import DecodingOptions
from langchain_vlmguard.models.profile import read_profile
from langchain_vlmguard.models.requests import Request
from langchain_vlmguard.models.steered_model import SteeredModel
from langchain_vlmguard.models.tool_choice import bound_tools, offered_names, required_grammar, structured_runnable
from langchain_vlmguard.verdict.limits import ReadLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from PIL import Image

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.models.served import VLLM
    from langchain_vlmguard.models.tool_choice import Offered
    from langchain_vlmguard.steering.attachment import Attachment
    from langchain_vlmguard.steering.directions import SafetyDirections

_NOT_IN_CACHE_KEYS = frozenset(
    {"cache", "callbacks", "tags", "metadata", "rate_limiter", "verbose", "disable_streaming", "streaming", "profile"}
    | {"steering", "directions", "probe", "timeout", "batch_size", "fetcher", "quantization_config"}
    | {"custom_get_token_ids"}
)
"""Fields that change no answer, and those that stand in cache keys by a hash or in words."""


class ChatSteeredVLM(SteeredModel, DecodingOptions, BaseChatModel):
    """A local Hugging Face image-text-to-text model behind LangChain's chat interface.

    The weights are loaded on first use. Pictures go through the model's own processor. Calls of any number of threads and
    tasks are answered together by continuous batching, each with its own settings, steering trace, callbacks and end;
    closing a stream or cancelling a task takes its row out within one token. Every answer reports usage, a finish reason
    and, when steering is on, the steering trace of its row.

    Other libraries' words are taken for our own: `model_name` for `model`, `max_new_tokens` and `max_completion_tokens` for
    `max_tokens`, `stop_sequences` for `stop`, `request_timeout` for `timeout`, `torch_dtype` for `dtype`. `max_retries`
    and `api_key` have no effect. Any other unknown keyword is an error that says what to write.

    ??? example "Three lines"

        ```python
        model = ChatSteeredVLM.from_pretrained("testbed")
        answer = model.invoke("How do I make a kite?")
        answer.response_metadata["steering"]
        ```
    """

    batch_size: int = Field(default=16, ge=1)
    """Most rows that run together."""

    streaming: bool = False
    """Let `invoke` generate through the stream too, so that callbacks see every token."""

    image_hosts: frozenset[str] = frozenset()
    """Hosts from which pictures are fetched by address, over https alone: `"img.example.com"`, `"*.example.com"`."""

    fetcher: InstanceOf[PictureFetcher] | None = Field(default=None, exclude=True, repr=False)
    """A `PictureFetcher` with other limits."""

    @model_validator(mode="before")
    @classmethod
    def _check_keywords(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        named = own_names({name: value for name, value in given.items() if name not in WITHOUT_EFFECT})
        check_known(named, cls.model_fields)
        if named.get("model") is None:
            msg = "name the model: model='path-or-hub-id' (model='testbed' is the tiny one that ships with the package)"
            raise ValueError(msg)
        if named.get("directions") is not None and named.get("steering", "auto") != "auto":
            msg = "directions and steering name two steerings: give one of them"
            raise ValueError(msg)
        return {name: value for name, value in named.items() if value is not None or not _takes_no_none(cls, name)}

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        directions: SafetyDirections | str | Path | None = None,
        steering: Attachment | Literal["auto"] | None = "auto",
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
        chat = cls(model=model, directions=directions, steering=steering, **options)
        loaded = chat.loaded
        if chat.directions is not None:
            chat._recommend(chat.directions, loaded)
        return chat

    @classmethod
    def from_loaded(cls, loaded: LoadedVLM, **options: Any) -> Self:
        """Wrap a model that is in memory already; all chat models around it share its engine."""
        chat = cls(model=loaded.name, **options)
        chat._loaded = loaded
        return chat

    @classmethod
    def from_vllm(cls, engine: VLLM, *, model: str | None = None, **options: Any) -> Self:
        """Wrap a model that vLLM runs; steering, traces and results are those of `from_pretrained`.

        Answers without a worker's stamp are refused. See the page about vLLM for what is not supported there.

        ??? example "Steering in vLLM"

            ```python
            from vllm import LLM

            config = engine_options({"safety": "checkpoint/vlmguard/safety_directions.safetensors"})
            model = ChatSteeredVLM.from_vllm(LLM("checkpoint", additional_config=config))
            ```

        Args:
            engine: A `vllm.LLM` that was started with `additional_config=engine_options(...)`.
            model: Folder or hub id of its processor; the engine's own model when `None`.
            options: Any other field of this class.

        Raises:
            EngineRefusedError: The engine, or one of its workers, is not armed.
        """
        from langchain_vlmguard.models.served import served

        return cls.from_loaded(served(engine, model), **options)

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1], as a person's message of its own without any picture.

        This is the path on which the language model's alignment is whole: words from a picture are judged as if typed.

        Raises:
            ValueError: There is no steering.
        """
        steering = self.gated_steering
        if steering is None:
            msg = (
                "texts are judged by the steering's gate: give the model directions, or steering='auto' if it has some"
            )
            raise ValueError(msg)
        rows = [to_chat_row([HumanMessage(text)], self.loaded.processor) for text in texts]
        return text_risks(self.loaded, rows, steering, batch_size=self.batch_size)

    @property
    def answer_judge(self) -> AnswerJudge | None:
        """What judges answers in words alone: the probe, if it was fitted on answers."""
        probe = self.active_probe
        return AnswerJudge(self.loaded, probe) if probe is not None and "answer" in probe.heads else None

    def seen_pictures(self, picture: Image.Image) -> list[Image.Image]:
        """Return a picture as the model sees it, after its processor's resizing: RGB, one or several tiles."""
        return processed_pictures(self.loaded, picture)

    def get_token_ids(self, text: str) -> list[int]:
        """Return a text's token ids from the model's own tokenizer, without special tokens; `trim_messages` counts by it."""
        tokens: list[int] = self.loaded.processor.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    @property
    def _llm_type(self) -> str:
        return "steered-vlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change an answer; LangChain's caches key on it."""
        steering, screening = self.active_steering, self.screening
        return {
            **{name: getattr(self, name) for name in sorted(type(self).model_fields.keys() - _NOT_IN_CACHE_KEYS)},
            "quantization_config": repr(self.quantization_config),
            "steering": steering.identity if steering else None,
            "screening": screening.identity if screening else None,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = super()._get_ls_params(stop=stop, **kwargs)
        return {**given, "ls_provider": PROVIDER, "ls_model_name": kwargs.get("model", self.model)}

    def _resolve_model_profile(self) -> ModelProfile | None:
        return read_profile(self.model, self._loaded, urls=bool(self.image_hosts), options=self.model_kwargs)

    def bind_tools(
        self,
        tools: Sequence[Offered],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
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

        An answer that reaches `max_tokens` before it is whole raises `StructuredOutputError` in the run, or is the
        `parsing_error` with `include_raw`.

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
        return self._answer(kwargs).result(self.engine.run(requests))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> ChatResult:
        requests = await asyncio.to_thread(self._requests, messages, stop, kwargs)
        return self._answer(kwargs).result(await self.engine.arun(requests))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        [request] = self._requests(messages, stop, {**kwargs, "n": 1})
        answer = self._answer(kwargs)
        with closing(self.engine.stream(request)) as pieces:
            for piece in pieces:
                yield from _reported(answer.piece(piece), run_manager)
            yield from _reported(answer.end(request.result()), run_manager)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        [request] = await asyncio.to_thread(self._requests, messages, stop, {**kwargs, "n": 1})
        answer = self._answer(kwargs)
        async with aclosing(self.engine.astream(request)) as pieces:
            async for piece in pieces:
                for chunk in answer.piece(piece):
                    await _areport(run_manager, chunk)
                    yield chunk
            for chunk in answer.end(request.result()):
                await _areport(run_manager, chunk)
                yield chunk

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
        limits = ReadLimits(max_images=64, hosts=self.image_hosts)
        processor = self.loaded.processor
        return to_chat_row(messages, processor, tools=kwargs.get("tools"), limits=limits, fetcher=self.fetcher)

    def _requests(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> list[Request]:
        options = self.for_call(stop, own_names(kwargs))
        settings = options.settings(
            grammar=required_grammar(kwargs, options.max_tokens),
            markers=bool(kwargs.get("tools")),
            until_gate=bool(kwargs.get("until_gate")),
        )
        seeds = [None if options.seed is None else options.seed + index for index in range(options.n)]
        row, attachment = self._row(messages, kwargs), self._attachment(kwargs)
        return [
            Request(row, replace(settings, seed=seed), attachment, batch_size=self.batch_size, client=id(self))
            for seed in seeds
        ]

    def _attachment(self, kwargs: Mapping[str, Any]) -> Attachment | None:
        """Return what acts on a call: the steering, what only reads its gate, or nothing, as the caller wants it."""
        if kwargs.get("unsteered"):
            return None
        screens = kwargs.get("until_gate") or kwargs.get("screened")
        return (self.screening if screens else None) or self.active_steering

    def _answer(self, kwargs: Mapping[str, Any]) -> Answer:
        return Answer(self.model, self._attachment(kwargs), offered_names(kwargs))


def _takes_no_none(chat: type[BaseChatModel], name: str) -> bool:
    """Whether `None` stands for a field's default: generic code gives it for whatever it leaves open."""
    return name not in ("steering", "probe") and chat.model_fields[name].default is not None


def _reported(
    chunks: Iterator[ChatGenerationChunk], run_manager: CallbackManagerForLLMRun | None
) -> Iterator[ChatGenerationChunk]:
    for chunk in chunks:
        if run_manager:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk


async def _areport(run_manager: AsyncCallbackManagerForLLMRun | None, chunk: ChatGenerationChunk) -> None:
    if run_manager:
        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
