"""`ChatSteeredVLM`: a local vision-language model as a LangChain chat model, steered or not."""

from __future__ import annotations

import json
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import get_config_list
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, field_validator

from langchain_vlmguard.models.chat_format import ChatRow, to_chat_row
from langchain_vlmguard.models.generation import Settings, stream_row
from langchain_vlmguard.models.judging import processed_pictures, text_risks
from langchain_vlmguard.models.loading import LoadedVLM, load_vlm
from langchain_vlmguard.models.tool_calls import parse_tool_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.tools import BaseTool
    from PIL import Image

    from langchain_vlmguard.models.generation import Generated
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.steering import Steering

PROVIDER = "langchain-vlmguard"


class ChatSteeredVLM(BaseChatModel):
    """A local Hugging Face image-text-to-text model behind LangChain's chat interface.

    The weights are loaded on first use. Pictures go through the model's own processor; `batch` runs left-padded batches;
    every answer reports usage, a finish reason and, when steering is on, the steering trace of its row. With tools bound, a
    stream gives the whole answer at once: half a tool call is of no use to anybody.

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

    device: str | None = None
    """Torch device; the GPU when there is one."""

    dtype: str = "auto"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to `from_pretrained`, e.g. `revision` or `attn_implementation`."""

    max_tokens: int = 256
    """Most new tokens an answer may have."""

    temperature: float = 0.0
    """0 is greedy."""

    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    batch_size: int = 16
    """Most rows that run together."""

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
        with self._load_lock:
            if self._loaded is None:
                self._loaded = load_vlm(self.model, device=self.device, dtype=self.dtype, **self.model_kwargs)
            return self._loaded

    @property
    def active_steering(self) -> Steering | None:
        """The steering that answers are given under, `"auto"` resolved."""
        if self.steering != "auto":
            return self.steering  # type: ignore[no-any-return]
        return self.loaded.recommended

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

    def seen_pictures(self, picture: Image.Image) -> list[Image.Image]:
        """Return a picture as the model sees it, after its processor's resizing: RGB, one or several tiles."""
        return processed_pictures(self.loaded, picture)

    @property
    def _llm_type(self) -> str:
        return "steered-vlm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        steering = self.active_steering
        return {
            "model": self.model,
            "model_kwargs": self.model_kwargs,
            "dtype": self.dtype,
            "steering": steering.identity if steering else None,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model through its chat template."""
        if kwargs.pop("tool_choice", None) not in (None, "auto"):
            msg = "tool_choice can only be 'auto': a local model cannot be made to call a tool yet"
            raise ValueError(msg)
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - part of the interface
        **kwargs: Any,
    ) -> ChatResult:
        row, settings = self._row(messages, kwargs), self._settings(stop, kwargs)
        loaded = self.loaded
        generated = loaded.scheduler.answer(loaded, row, settings, self.active_steering, batch_size=self.batch_size)
        return ChatResult(generations=[ChatGeneration(message=self._message(generated))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if kwargs.get("tools"):
            message = self._generate(messages, stop, run_manager, **kwargs).generations[0].message
            yield _emit(_as_chunk(cast("AIMessage", message)), run_manager)
            return
        row, settings = self._row(messages, kwargs), self._settings(stop, kwargs)
        for piece in stream_row(self.loaded, row, settings, self.active_steering):
            if isinstance(piece, str):
                yield _emit(AIMessageChunk(content=piece), run_manager)
            else:
                whole = self._message(piece)
                yield _emit(_as_chunk(whole.model_copy(update={"content": ""})), run_manager)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer many inputs in left-padded batches of up to `batch_size`; each keeps its own callbacks and trace."""
        configs = get_config_list(config, len(inputs))
        for one in configs:
            one["max_concurrency"] = one.get("max_concurrency") or self.batch_size
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def _row(self, messages: Sequence[BaseMessage], kwargs: dict[str, Any]) -> ChatRow:
        return to_chat_row(messages, self.loaded.processor, tools=kwargs.get("tools"))

    def _settings(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Settings:
        return Settings(
            max_tokens=kwargs.get("max_tokens", self.max_tokens),
            temperature=kwargs.get("temperature", self.temperature),
            top_p=kwargs.get("top_p", self.top_p),
            seed=kwargs.get("seed", self.seed),
            stop=tuple(stop or self.stop or ()),
            until_gate=bool(kwargs.get("until_gate")),
        )

    def _message(self, generated: Generated) -> AIMessage:
        words, calls, invalid = parse_tool_calls(generated.text)
        metadata: dict[str, Any] = {
            "model_name": self.model,
            "model_provider": PROVIDER,
            "finish_reason": "tool_calls" if calls else generated.finish_reason,
        }
        steering = self.active_steering
        if steering is not None and generated.steering is not None:
            card = steering.directions.card
            metadata["steering"] = generated.steering
            metadata["provenance"] = {
                "steering": steering.identity,
                "directions": steering.directions.hash,
                "anchors": card.anchors_hash,
            }
        return AIMessage(
            content=words,
            tool_calls=calls,
            invalid_tool_calls=invalid,
            response_metadata=metadata,
            usage_metadata={
                "input_tokens": generated.input_tokens,
                "output_tokens": generated.output_tokens,
                "total_tokens": generated.input_tokens + generated.output_tokens,
            },
        )


def _recommended(directions: SafetyDirections | str, loaded: LoadedVLM) -> Steering:
    from langchain_vlmguard.steering.directions import SafetyDirections  # noqa: PLC0415 - importing must stay light
    from langchain_vlmguard.steering.steering import Steering  # noqa: PLC0415

    found = SafetyDirections.load(directions) if isinstance(directions, str) else directions
    found.check(loaded.model)
    return Steering.recommended(found)


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    fields = message.model_dump(exclude={"type", "tool_calls", "invalid_tool_calls"})
    chunks = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(**fields, tool_call_chunks=chunks)


def _emit(chunk: AIMessageChunk, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
    generation = ChatGenerationChunk(message=chunk)
    if run_manager:
        run_manager.on_llm_new_token(generation.text, chunk=generation)
    return generation
