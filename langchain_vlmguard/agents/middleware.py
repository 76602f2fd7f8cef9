"""`VLMGuardMiddleware`: the guard for agents made with `langchain.agents.create_agent`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from langchain.agents.middleware import TracePolicy, hook_config, omit_payload
from langchain.agents.middleware.types import AgentMiddleware
from langchain_core.runnables import Runnable
from langgraph.errors import GraphBubbleUp

from langchain_vlmguard.agents.events import VerdictTransformer, amuted, muted
from langchain_vlmguard.agents.model_call import ModelCall
from langchain_vlmguard.agents.options import NO_MODEL, AgentGuard
from langchain_vlmguard.agents.review import review_answer, review_results
from langchain_vlmguard.agents.state import VLMGuardAgentState
from langchain_vlmguard.agents.tool_call import ToolCheck
from langchain_vlmguard.content.fetch import PictureFetcher
from langchain_vlmguard.guard.nodes import GuardNodes
from langchain_vlmguard.guard.pictures import HiddenRequests
from langchain_vlmguard.guard.subjects import describe
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from langchain.agents.middleware.types import ExtendedModelResponse, ModelRequest, ModelResponse, ToolCallRequest
    from langchain_core.messages import ToolMessage
    from langgraph.runtime import Runtime
    from langgraph.types import Command

    from langchain_vlmguard.agents.options import ExitBehavior, Mode, OnReview
    from langchain_vlmguard.agents.telemetry import GuardTelemetry
    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.guard.pictures import TextJudge
    from langchain_vlmguard.guard.subjects import Phrase
    from langchain_vlmguard.rewriting.rewriter import Rewrite

_CHOICES = {
    "exit_behavior": ("end", "replace", "error"),
    "on_review": ("interrupt", "refuse"),
    "mode": ("enforce", "monitor"),
}


class VLMGuardMiddleware(AgentMiddleware[VLMGuardAgentState, Any, Any]):
    """Guards an agent: what people send, what tools are called with, what they return, and what the model answers.

    The rewritten prompt goes to the model for the call alone; the state keeps the person's words. List this middleware last,
    so that nothing changes a request after it was checked.

    ??? example "One line"

        ```python
        agent = create_agent(model, tools, middleware=[VLMGuardMiddleware(rewriter)])
        ```
    """

    state_schema = VLMGuardAgentState
    trace_policy: ClassVar[TracePolicy] = TracePolicy(process_inputs=omit_payload)  # type: ignore[misc]
    transformers = (VerdictTransformer,)

    def __init__(
        self,
        rewriter: Runnable[Any, Rewrite] | None = None,
        *,
        policy: GuardPolicy | None = None,
        check_input: bool = True,
        check_tool_args: bool = True,
        check_tool_results: bool = True,
        check_output: bool = True,
        tools: Sequence[str] | None = None,
        exit_behavior: ExitBehavior = "end",
        on_review: OnReview = "interrupt",
        violation_message: str | None = None,
        mode: Mode = "enforce",
        parallel: bool = False,
        show_held: bool = False,
        phrase: Phrase | None = None,
        fetcher: PictureFetcher | None = None,
        evidence: EvidenceReader | None = None,
        judge: TextJudge | None = None,
        telemetry: GuardTelemetry | None = None,
        name: str | None = None,
    ) -> None:
        """Set the guard up.

        Args:
            rewriter: Judges turns, answers, tool calls and tool results, and rewrites prompts. Without one, everything is
                read (what cannot be read is refused) and a steered model's own gate decides.
            policy: Thresholds and actions; `context={"policy": ...}` replaces it for one run.
            check_input: Judge what people send. What cannot be read is refused either way.
            check_tool_args: Judge tool calls before they run.
            check_tool_results: Judge what tools return, text and pictures, before the model sees it.
            check_output: Judge answers before any token of them leaves.
            tools: Names of the tools whose calls and results are checked; all when `None`.
            exit_behavior: On a violation in the input or the output, `"end"` refuses and ends the run, `"replace"` puts the
                notice in place of what was wrong and goes on, `"error"` raises. Tools get an error message, unless `"error"`.
            on_review: Whether a person is asked (`interrupt`; needs a checkpointer) or review means refusal.
            violation_message: Template of the notice; may use `{hazards}`, `{reason}`, `{stage}`, `{action}`, `{safe_way}`.
            mode: `"monitor"` judges and records, and changes nothing.
            parallel: Start the model while its input is judged; nothing is released before, and a blocked call's answer is
                thrown away (under `ainvoke` the call is cancelled).
            show_held: Put the content that waits for review into the interrupt, which every stream shows.
            phrase: How answers and calls are worded for the rewriter; a rewriter may bring its own as attribute `phrase`.
            fetcher: How pictures are fetched by address, where the policy lists `image_hosts`.
            evidence: Reads what pictures say, in the turn and in tool results (extra `evidence`).
            judge: What judges the words in pictures as if typed, e.g. a `ChatSteeredVLM`; without one the rewriter alone gets
                them, as quotes.
            telemetry: Reports every check to OpenTelemetry (extra `otel`).
            name: Of this instance; two differently configured ones in one agent need two names.

        Raises:
            TypeError: The rewriter is no `Runnable`.
            ValueError: An option has another value than it may have.
        """
        super().__init__()
        given: object = rewriter
        if given is not None and not isinstance(given, Runnable):
            msg = f"the rewriter must be a LangChain Runnable such as ReasoningRewriter, not {type(given).__name__}"
            raise TypeError(msg)
        for option, chosen in (("exit_behavior", exit_behavior), ("on_review", on_review), ("mode", mode)):
            if chosen not in _CHOICES[option]:
                msg = f"{option} must be one of {', '.join(_CHOICES[option])}, not {chosen!r}"
                raise ValueError(msg)
        _check_template(violation_message)
        self._name = name or type(self).__name__
        self._guard = AgentGuard(
            nodes=GuardNodes(
                NO_MODEL,
                rewriter,
                policy or GuardPolicy(),
                fetcher or PictureFetcher(),
                None if evidence is None else HiddenRequests(evidence, judge),
            ),
            name=self._name,
            phrase=phrase or getattr(rewriter, "phrase", None) or describe,
            check_input=check_input,
            check_tool_args=check_tool_args,
            check_tool_results=check_tool_results,
            check_output=check_output,
            tools=None if tools is None else frozenset(tools),
            exit_behavior=exit_behavior,
            on_review=on_review,
            violation_message=violation_message,
            mode=mode,
            parallel=parallel,
            show_held=show_held,
            telemetry=telemetry,
        )

    @property
    def name(self) -> str:
        """Name of this instance."""
        return self._name

    @hook_config(can_jump_to=["model", "end"])
    def before_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Ask a person about tool results that are held."""
        return self._decided(review_results(self._guard, state), runtime)

    @hook_config(can_jump_to=["model", "end"])
    async def abefore_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Ask a person about tool results that are held."""
        return self.before_model(state, runtime)

    @hook_config(can_jump_to=["model", "end"])
    def after_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Ask a person about the turn, the answer or the calls that are held."""
        return self._decided(review_answer(self._guard, state), runtime)

    @hook_config(can_jump_to=["model", "end"])
    async def aafter_model(self, state: Any, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Ask a person about the turn, the answer or the calls that are held."""
        return self.after_model(state, runtime)

    def _decided(self, update: dict[str, Any] | None, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Publish what a person decided, like any other check."""
        if update is not None:
            self._guard.report(runtime.stream_writer, update["verdicts"])
        return update

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Check what goes into the model and what comes out."""
        call = ModelCall(self._guard, request)
        with _Ahead(self._ask, handler, call) as ahead:
            if call.undecided:
                call.judged(call.guard.nodes.judge(call.state))
            call.met(call.guard.judge(call.strangers()))
            stopped = call.stopped()
            if stopped is not None:
                return stopped
            response = ahead.response() or self._ask(handler, call.prepared())
        return call.finished(call.guard.judge(call.heard(response)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """Check what goes into the model and what comes out, without blocking the event loop."""
        call = await asyncio.to_thread(ModelCall, self._guard, request)
        early = call.starts_early
        task = asyncio.create_task(self._aask(handler, call.prepared())) if early else None
        try:
            if call.undecided:
                call.judged(await call.guard.nodes.ajudge(call.state))
            call.met(await call.guard.ajudge(call.strangers()))
            stopped = call.stopped()
            if stopped is not None:
                return stopped
            usable = task is not None and call.is_unchanged
            response = await cast("asyncio.Task[Any]", task) if usable else await self._aask(handler, call.prepared())
        finally:
            if task is not None and not task.done():
                task.cancel()
        return call.finished(await call.guard.ajudge(call.heard(response)))

    def _ask(self, handler: Callable[[ModelRequest[Any]], ModelResponse[Any]], request: ModelRequest[Any]) -> Any:
        return muted(lambda: handler(request)) if self._guard.mutes else handler(request)

    async def _aask(
        self, handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]], request: ModelRequest[Any]
    ) -> Any:
        return await amuted(lambda: handler(request)) if self._guard.mutes else await handler(request)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Check a tool's arguments before it runs and its results before the model sees them."""
        check = ToolCheck(self._guard, request)
        denied = check.denied(self._guard.judge(check.arguments()))
        if denied is not None:
            return denied
        try:
            result = handler(check.prepared())
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001 - judged, then raised again
            return check.after_failure(self._guard.judge(check.failed(error)))
        return cast("ToolMessage | Command[Any]", check.finished(self._guard.judge(check.returned(result))))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Check a tool's arguments and results without blocking the event loop."""
        check = ToolCheck(self._guard, request)
        denied = check.denied(await self._guard.ajudge(check.arguments()))
        if denied is not None:
            return denied
        try:
            result = await handler(check.prepared())
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001 - judged, then raised again
            return check.after_failure(await self._guard.ajudge(check.failed(error)))
        return cast("ToolMessage | Command[Any]", check.finished(await self._guard.ajudge(check.returned(result))))


class _Ahead:
    """A model call that runs in a thread while its input is judged, where that is asked for."""

    def __init__(self, ask: Callable[..., Any], handler: Callable[..., Any], call: ModelCall) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(1) if call.starts_early else None
        if self._pool is not None:
            self._future = self._pool.submit(copy_context().run, ask, handler, call.prepared())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a call that nobody waits for to itself: a thread cannot be stopped."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def response(self) -> Any:
        """Return the early answer, `None` where there is none or its input was changed by the check."""
        return self._future.result() if self._pool is not None and self._call.is_unchanged else None


def _check_template(template: str | None) -> None:
    try:
        (template or "").format(hazards="", reason="", stage="", action="", safe_way="")
    except (KeyError, IndexError, ValueError) as error:
        msg = (
            f"violation_message may use {{hazards}}, {{reason}}, {{stage}}, {{action}} and {{safe_way}} only: {error!r}"
        )
        raise ValueError(msg) from error
