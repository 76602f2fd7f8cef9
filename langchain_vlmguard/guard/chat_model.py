"""`GuardedChatModel`: any chat model behind the guard, as a chat model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding
from pydantic import Field, PrivateAttr, SkipValidation, model_validator

from langchain_vlmguard.agents.events import amuted, muted
from langchain_vlmguard.agents.options import AgentGuard, joined, withheld
from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.errors import GuardViolationError
from langchain_vlmguard.guard.calls import Answer
from langchain_vlmguard.guard.nodes import GuardNodes
from langchain_vlmguard.guard.pictures import HiddenRequests, judge_in
from langchain_vlmguard.guard.refusals import refusal_message, refusal_text, with_verdict
from langchain_vlmguard.guard.subjects import Subject, describe
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        BaseCallbackManager,
        BaseRunManager,
        CallbackManagerForLLMRun,
    )
    from langchain_core.language_models import LangSmithParams, LanguageModelInput
    from langchain_core.messages import BaseMessage, ToolCall
    from langchain_core.tools import BaseTool
    from pydantic import BaseModel

    from langchain_vlmguard.agents.state import CheckRecord
    from langchain_vlmguard.guard.state import VLMGuardState

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

    rewriter: SkipValidation[Any] = None
    """A `Runnable` from messages to `Rewrite`; without one, turns are read and a steered model's gate decides."""

    policy: GuardPolicy = Field(default_factory=GuardPolicy)
    check_output: bool = True
    """Judge answers and tool calls, not only the turn."""

    on_refusal: Literal["message", "error"] = "message"
    """Whether a refusal is a message or a `GuardViolationError`, e.g. for structured output."""

    evidence: SkipValidation[Any] = None
    """An `EvidenceReader` for what pictures say (extra `evidence`)."""

    judge: SkipValidation[Any] = None
    """What judges the words in pictures as if typed; the inner model where it can (a steered VLM)."""

    phrase: SkipValidation[Any] = None
    """How answers and calls are worded for the rewriter: a function of a `Subject`."""

    telemetry: SkipValidation[Any] = Field(default=None, exclude=True)
    """A `GuardTelemetry` that reports every check to OpenTelemetry (extra `otel`)."""

    _guard: AgentGuard = PrivateAttr()

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
        if self.rewriter is not None and not isinstance(self.rewriter, Runnable):
            msg = f"the rewriter must be a LangChain Runnable such as ReasoningRewriter, not {type(self.rewriter).__name__}"
            raise TypeError(msg)
        self._guard = AgentGuard(
            nodes=GuardNodes(self.model, self.rewriter, self.policy, PictureFetcher(), self._hidden()),
            name=type(self).__name__,
            phrase=self.phrase or getattr(self.rewriter, "phrase", None) or describe,
            on_review="refuse",
            check_output=self.check_output,
            telemetry=self.telemetry,
        )

    def _hidden(self) -> HiddenRequests | None:
        return None if self.evidence is None else HiddenRequests(self.evidence, self.judge or judge_in(self.model))

    @property
    def _llm_type(self) -> str:
        return f"guarded-{self.model._llm_type}"  # noqa: SLF001 - the inner model's part of the same interface

    @property
    def _identifying_params(self) -> dict[str, Any]:
        inner = self.model._identifying_params  # noqa: SLF001
        rewriter = getattr(self.rewriter, "identity", None) or type(self.rewriter).__name__
        evidence = getattr(self.evidence, "identity", None)
        judged = {"evidence": evidence, "judge": repr(getattr(self.judge, "_identifying_params", self.judge))}
        read = {} if self.evidence is None else judged
        guard = {"policy": self.policy.hash, "rewriter": rewriter, "check_output": self.check_output, **read}
        return {**inner, "guard": guard}

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

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        callbacks = _below(run_manager, CallbackManager)
        return _result(muted(lambda: self._guarded(messages, _settings(stop, kwargs)), callbacks))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        callbacks = _below(run_manager, AsyncCallbackManager)
        return _result(await amuted(lambda: self._aguarded(messages, _settings(stop, kwargs)), callbacks))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        result = self._generate(messages, stop, run_manager, **kwargs)
        chunk = ChatGenerationChunk(message=whole_chunk(cast("AIMessage", result.generations[0].message)))
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
        chunk = ChatGenerationChunk(message=whole_chunk(cast("AIMessage", result.generations[0].message)))
        if run_manager:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _guarded(self, messages: list[BaseMessage], settings: dict[str, Any]) -> AIMessage:
        turn = _Turn(self._guard, self.on_refusal)
        turn.judged(self._guard.nodes.judge(self._guard.nodes.read(messages)))
        if turn.is_stopped:
            return turn.refusal("input")
        subjects = turn.heard(self.model.invoke(turn.prompt, **settings))
        return turn.finished(self._guard.judge(subjects))

    async def _aguarded(self, messages: list[BaseMessage], settings: dict[str, Any]) -> AIMessage:
        turn = _Turn(self._guard, self.on_refusal)
        turn.judged(await self._guard.nodes.ajudge(await asyncio.to_thread(self._guard.nodes.read, messages)))
        if turn.is_stopped:
            return turn.refusal("input")
        subjects = turn.heard(await self.model.ainvoke(turn.prompt, **settings))
        return turn.finished(await self._guard.ajudge(subjects))


@dataclass
class _Turn:
    """One guarded call of the inner model."""

    guard: AgentGuard
    on_refusal: str

    def judged(self, state: VLMGuardState) -> None:
        self.state = state
        self.draft = self.guard.settled(state["draft"])
        self._report([self.guard.record("input", self.draft)])

    def _report(self, records: list[CheckRecord]) -> None:
        if self.guard.telemetry is not None:
            self.guard.telemetry.record(records)

    @property
    def is_stopped(self) -> bool:
        return self.draft["action"] not in ("allow", "rewrite")

    @property
    def prompt(self) -> list[BaseMessage]:
        return self.guard.nodes.for_model(self.state)

    def heard(self, message: AIMessage) -> list[list[BaseMessage]]:
        """Take the answer; return what of it must be judged."""
        self.message = message
        self.draft = self.guard.settled(self.guard.nodes.heard(self.draft, Answer.of(message)))
        self._report([self.guard.record("output", draft) for draft in withheld(self.guard, self.draft)])
        if self.is_stopped or not self.guard.check_output:
            return []
        calls = message.tool_calls
        answer = Subject.of_answer(message, [call["name"] for call in calls])
        self._asked: list[ToolCall | None] = [None] if answer.text.strip() or answer.pictures else []
        subjects = [answer] * len(self._asked) + [Subject.of_call(call) for call in calls]
        self._asked += calls
        return [self.guard.subject_turn(subject, self.prompt) for subject in subjects]

    def finished(self, states: Sequence[VLMGuardState]) -> AIMessage:
        """Return the answer, or a refusal in its place."""
        found = [state["draft"] for state in states]
        self._report([self._record(*one) for one in zip(self._asked, found, strict=True)] if found else [])
        self.draft = joined(self.draft, found) if found else self.draft
        if self.is_stopped:
            self.draft["answer"] = "withheld"
            return self.refusal("output")
        return with_verdict(self.message, self.guard.nodes.verdict({**self.draft, "answer": "released"}))

    def _record(self, call: ToolCall | None, draft: dict[str, Any]) -> CheckRecord:
        if call is None:
            return self.guard.record("output", draft)
        return self.guard.record("tool_args", draft, tool=call["name"], call=call["id"])

    def refusal(self, stage: str) -> AIMessage:
        verdict = self.guard.nodes.verdict(self.draft)
        if self.on_refusal == "error":
            raise GuardViolationError(stage, verdict.to_state())
        heard: AIMessage | None = getattr(self, "message", None)
        metadata = {} if heard is None else {"model_name": heard.response_metadata.get("model_name")}
        usage = heard.usage_metadata if heard is not None else None
        text = refusal_text(verdict, self.guard.nodes.policy)
        message = refusal_message(text, verdict, response_metadata=metadata, usage_metadata=usage)
        return with_verdict(message, verdict)


def whole_chunk(message: AIMessage) -> AIMessageChunk:
    """Return a whole answer as the only chunk of a stream; its tool calls can be merged and parsed like any others."""
    fields = message.model_dump(exclude={"type", "tool_calls", "invalid_tool_calls"})
    chunks = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        for index, call in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(**fields, tool_call_chunks=chunks)


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
    return ChatResult(generations=[ChatGeneration(message=message)])
