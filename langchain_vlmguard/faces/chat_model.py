"""`GuardedChatModel`: any chat model behind the guard, as a chat model."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.runnables.config import set_config_context
from pydantic import Field, PrivateAttr, SkipValidation, model_validator

from langchain_vlmguard.errors import GuardViolationError
from langchain_vlmguard.faces.inner_usage import result_with_usage, told_beside, with_usage
from langchain_vlmguard.guard.chunks import whole_chunk
from langchain_vlmguard.guard.effects import arun, run
from langchain_vlmguard.guard.flow import guarded_answer
from langchain_vlmguard.guard.parts import GuardParts
from langchain_vlmguard.guard.slots import MOST_AT_ONCE
from langchain_vlmguard.guard.state import check_record
from langchain_vlmguard.guard.streams import muted_config
from langchain_vlmguard.rewriting.report import Rewriter  # noqa: TC001 - pydantic reads the annotations
from langchain_vlmguard.rewriting.subjects import Scope
from langchain_vlmguard.verdict.policy import GuardPolicy
from langchain_vlmguard.verdict.refusals import refusal_message, refusal_text, with_verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        BaseCallbackManager,
        BaseRunManager,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LangSmithParams, LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
    from langchain_core.outputs import LLMResult
    from langchain_core.tools import BaseTool
    from pydantic import BaseModel

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.parts import Telemetry
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.guard.state import Stage
    from langchain_vlmguard.guard.turns import Answered
    from langchain_vlmguard.rewriting.subjects import Phrase
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.judges import TextJudge
else:  # types for people and type checkers: pydantic need not look inside
    EvidenceReader = Phrase = PictureFetcher = SecondReader = Telemetry = TextJudge = Any

_PARTS = tuple(part.name for part in fields(GuardParts) if part.name != "show_held")
_INNER_SETTINGS = ("temperature", "max_tokens", "timeout", "stop", "max_retries", "top_p", "seed")


class GuardedChatModel(BaseChatModel):
    """Judges the turn, asks the inner model with the rewritten prompt, and judges its answer before any of it leaves.

    Every answer carries the verdict in `response_metadata["verdict"]`; a refusal is an ordinary message. Errors of the inner
    model are raised, so that fallbacks and retries work. Review means refusal here: a chat model has nobody to ask. A stream
    gives the whole answer at once, after it was judged.

    ??? example "Two lines"

        ```python
        model = GuardedChatModel(model=any_chat_model, rewriter=ReasoningRewriter.from_model(any_chat_model))
        model.invoke("How do I make a kite?").response_metadata["verdict"]["action"]
        ```
    """

    model: BaseChatModel
    """The model that answers. Settings such as `temperature` that are given to this class go to a copy of it."""

    rewriter: SkipValidation[Rewriter | None] = None
    """A `Runnable` from messages to `Rewrite`."""

    policy: GuardPolicy = Field(default_factory=GuardPolicy)
    check_output: bool = True
    """Judge answers and tool calls, not only the turn."""

    on_refusal: Literal["message", "error"] = "message"
    """Whether a refusal is a message or a `GuardViolationError`, e.g. for structured output."""

    evidence: SkipValidation[EvidenceReader | None] = None
    """Reads what pictures say (extra `evidence`)."""

    judge: SkipValidation[TextJudge | None] = None
    """Judges the words in pictures as if typed; the inner model if it can (a steered VLM)."""

    answer_judge: SkipValidation[TextJudge | Literal["auto"] | None] = "auto"
    """Judges answers and tool calls before they leave; see `create_vlm_guard`."""

    second_reader: SkipValidation[SecondReader | Literal["auto"] | None] = "auto"
    """See `create_vlm_guard`."""

    fetcher: SkipValidation[PictureFetcher | None] = None
    """How pictures are fetched by address, if the policy lists `image_hosts`."""

    phrase: SkipValidation[Phrase | None] = None
    """How answers and calls are worded for the rewriter: a function of a `Subject`."""

    judges_at_once: int = MOST_AT_ONCE
    """Judge calls at the same time, for the parts of one answer."""

    telemetry: SkipValidation[Telemetry | None] = Field(default=None, exclude=True)
    """A `GuardTelemetry` that reports every check to OpenTelemetry (extra `otel`)."""

    _guard: GuardParts = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _hand_on_settings(cls, given: Any) -> Any:
        inner = given.get("model") if isinstance(given, dict) else None
        if not isinstance(inner, BaseChatModel):
            return given
        settings = {key: given[key] for key in _INNER_SETTINGS if key in given and key in type(inner).model_fields}
        kept = {key: value for key, value in given.items() if key not in settings}
        return {**kept, "model": inner.model_copy(update=settings) if settings else inner}

    def model_post_init(self, context: Any, /) -> None:
        """Set the guard up."""
        super().model_post_init(context)
        self._guard = GuardParts(**{name: getattr(self, name) for name in _PARTS})
        self._guard.check_model(self.model)

    @classmethod
    def of(cls, model: BaseChatModel, guard: GuardParts, **options: Any) -> Self:
        """Return a model behind a whole guard."""
        return cls(model=model, **{name: getattr(guard, name) for name in _PARTS}, **options)

    @property
    def _llm_type(self) -> str:
        return f"guarded-{self.model._llm_type}"  # noqa: SLF001 - the inner model's part of the same interface

    @property
    def _identifying_params(self) -> dict[str, Any]:
        inner = self.model._identifying_params  # noqa: SLF001
        return {**inner, "guard": {**self._guard.identity, "check_output": self.check_output}}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.model._get_ls_params(stop=stop, **kwargs)  # noqa: SLF001

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the inner model; a call that is judged harmful makes the answer a refusal."""
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        bound = self.model.bind_tools(tools, **choice, **kwargs)
        if not isinstance(bound, RunnableBinding):
            msg = (
                f"{type(self.model).__name__}.bind_tools returns a {type(bound).__name__}: wrap what it returns instead"
            )
            raise TypeError(msg)
        return self.bind(**bound.kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Return answers of a schema; a refusal is raised as `GuardViolationError`, or is the raw message."""
        strict = self.model_copy(update={"on_refusal": "message" if include_raw else "error"})
        return BaseChatModel.with_structured_output(strict, schema, include_raw=include_raw, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Answer lists of messages; tokens are counted once, by the inner model's run."""
        return result_with_usage(super().generate(*args, **kwargs))

    async def agenerate(self, *args: Any, **kwargs: Any) -> LLMResult:
        """Answer lists of messages; tokens are counted once, by the inner model's run."""
        return result_with_usage(await super().agenerate(*args, **kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """Stream the answer, which comes whole after it was judged."""
        for chunk in super().stream(*args, **kwargs):
            yield with_usage(chunk)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """Stream the answer, which comes whole after it was judged."""
        async for chunk in super().astream(*args, **kwargs):
            yield with_usage(chunk)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with set_config_context(muted_config(callbacks=_below(run_manager, CallbackManager))) as context:
            return _result(context.run(run, self._guarded(messages, _settings(stop, kwargs))))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with set_config_context(muted_config(callbacks=_below(run_manager, AsyncCallbackManager))) as context:
            guarded = arun(self._guarded(messages, _settings(stop, kwargs)))
            return _result(await asyncio.create_task(guarded, context=context))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        result = self._generate(messages, stop, run_manager, **kwargs)
        chunk = _as_chunk(result)
        if run_manager:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        result = await self._agenerate(messages, stop, run_manager, **kwargs)
        chunk = _as_chunk(result)
        if run_manager:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _guarded(self, messages: list[BaseMessage], settings: dict[str, Any]) -> Flow[AIMessage]:
        """Return the answer of the inner model, or a refusal in its place."""
        guard = self._guard.for_run()
        scope = Scope(answer=self.check_output, calls=self.check_output)
        answered = yield from guarded_answer(guard, messages, self.model.bind(**settings), scope)
        draft = answered.joined().settle(asks_people=False)
        self._report(guard, answered, draft)
        if answered.answer is not None and draft.lets_answer:
            verdict = draft.copy_with(answer="released").to_verdict(guard.policy)
            return with_verdict(answered.answer.message, verdict)
        verdict = draft.to_verdict(guard.policy)
        if self.on_refusal == "error":
            raise GuardViolationError("input" if answered.answer is None else "output", verdict.to_state())
        said = None if answered.answer is None else answered.answer.message
        metadata = {} if said is None else {"model_name": said.response_metadata.get("model_name")}
        usage = None if said is None else said.usage_metadata
        words = refusal_text(verdict, guard.policy)
        return with_verdict(refusal_message(words, verdict, response_metadata=metadata, usage_metadata=usage), verdict)

    def _report(self, guard: GuardParts, answered: Answered, draft: Draft) -> None:
        """Report the checks of this call to telemetry."""
        if guard.telemetry is None:
            return
        asked = draft if answered.answer is None else answered.draft
        checks: list[tuple[Stage, Draft, ToolCall | None]] = [("input", asked, None)]
        checks += [("tool_args" if p.subject.call else "output", p.draft, p.subject.call) for p in answered.parts]
        name = type(self).__name__
        guard.telemetry.record([check_record(s, name, d.to_verdict(guard.policy), call) for s, d, call in checks])


def _below(run: BaseRunManager | None, kind: type[BaseCallbackManager]) -> BaseCallbackManager | None:
    """Return callbacks whose runs are traced below a run of this model."""
    if run is None:
        return None
    handlers, tags, metadata = run.inheritable_handlers, run.inheritable_tags, run.inheritable_metadata
    return kind(
        handlers=[*handlers],
        inheritable_handlers=[*handlers],
        parent_run_id=run.run_id,
        tags=[*tags],
        inheritable_tags=[*tags],
        metadata={**metadata},
        inheritable_metadata={**metadata},
    )


def _settings(stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs if stop is None else {**kwargs, "stop": stop}


def _result(message: AIMessage) -> ChatResult:
    bare, info = told_beside(message)
    return ChatResult(generations=[ChatGeneration(message=bare, generation_info=info or None)])


def _as_chunk(result: ChatResult) -> ChatGenerationChunk:
    [said] = result.generations
    message = whole_chunk(cast("AIMessage", said.message))
    return ChatGenerationChunk(message=message, generation_info=said.generation_info)
