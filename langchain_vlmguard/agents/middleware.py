"""`VLMGuardMiddleware`: the guard for agents made with `langchain.agents.create_agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from langchain.agents.middleware import TracePolicy, hook_config, omit_payload
from langchain.agents.middleware.types import AgentMiddleware

from langchain_vlmguard.agents.asked_model import AskedModel
from langchain_vlmguard.agents.events import VerdictTransformer
from langchain_vlmguard.agents.model_call import guard_model_call
from langchain_vlmguard.agents.options import AgentGuard
from langchain_vlmguard.agents.review import passed_results, review_answer, review_held
from langchain_vlmguard.agents.state import VLMGuardAgentState
from langchain_vlmguard.agents.tool_call import guard_tool_call
from langchain_vlmguard.agents.tool_names import names_of
from langchain_vlmguard.guard.effects import arun, run
from langchain_vlmguard.guard.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from langchain.agents.middleware.types import ExtendedModelResponse, ModelRequest, ModelResponse, ToolCallRequest
    from langchain_core.messages import ToolMessage
    from langgraph.runtime import Runtime
    from langgraph.types import Command

    from langchain_vlmguard.agents.options import ExitBehavior, Mode, OnReview
    from langchain_vlmguard.agents.tool_names import NamedTool
    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.guard.effects import Flow
    from langchain_vlmguard.guard.parts import GuardParts, Telemetry
    from langchain_vlmguard.guard.second_reader import SecondReader
    from langchain_vlmguard.guard.state import Update
    from langchain_vlmguard.rewriting.report import Rewriter
    from langchain_vlmguard.rewriting.subjects import Phrase
    from langchain_vlmguard.verdict.judges import TextJudge
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Json

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
        rewriter: Rewriter | GuardParts | None = None,
        *,
        policy: GuardPolicy | Json | None = None,
        check_input: bool = True,
        check_tool_args: bool = True,
        check_tool_results: bool = True,
        check_output: bool = True,
        tools: Sequence[NamedTool] | None = None,
        exit_behavior: ExitBehavior = "end",
        on_review: OnReview = "interrupt",
        violation_message: str | None = None,
        mode: Mode = "enforce",
        parallel: bool = False,
        show_held: bool = True,
        phrase: Phrase | None = None,
        fetcher: PictureFetcher | None = None,
        evidence: EvidenceReader | None = None,
        judge: TextJudge | None = None,
        answer_judge: TextJudge | Literal["auto"] | None = "auto",
        second_reader: SecondReader | Literal["auto"] | None = "auto",
        telemetry: Telemetry | None = None,
        name: str | None = None,
    ) -> None:
        """Set the guard up.

        Args:
            rewriter: Judges turns, tool calls and tool results, and rewrites prompts; or a whole `Guard`, and then only how
                this agent is checked may be given beside it.
            policy: Thresholds and actions. In a graph with `context_schema=GuardContext`, `context={"policy": ...}` replaces it
                for one run.
            check_input: Judge what people send. What cannot be read is refused either way.
            check_tool_args: Judge tool calls before they run.
            check_tool_results: Judge what tools return, text and pictures, before the model sees it.
            check_output: Judge answers before any token of them leaves.
            tools: The tools, or their names, whose calls and results are checked; all when `None`.
            exit_behavior: On a violation in the input or the output, `"end"` refuses and ends the run, `"replace"` puts the
                notice in place of what was wrong and goes on, `"error"` raises. Tools get an error message, unless `"error"`.
            on_review: Whether a person is asked (`interrupt`; needs a checkpointer) or review means refusal.
            violation_message: Template of the notice; may use `{hazards}`, `{reason}`, `{stage}`, `{action}`, `{safe_way}`.
            mode: `"monitor"` judges and records, and changes nothing.
            parallel: Start the model while its input is judged; nothing is released before, and a blocked call's answer is
                thrown away (under `ainvoke` the call is cancelled).
            show_held: Show a reviewer what waits. It is then in the interrupt, which every stream shows.
            phrase: How answers and calls are worded for the rewriter; a rewriter may bring its own as attribute `phrase`.
            fetcher: How pictures are fetched by address, if the policy lists `image_hosts`.
            evidence: Reads what pictures say, in the turn and in tool results (extra `evidence`).
            judge: Judges the words in pictures as if typed, e.g. a `ChatSteeredVLM`; the agent's model if it can.
            answer_judge: Judges answers and tool calls before they leave. `"auto"`: the agent's model and the rewriter's, as
                far as they can, and the rewriter itself if its model cannot. `None`: nobody.
            second_reader: See `create_vlm_guard`.
            telemetry: Reports every check to OpenTelemetry (extra `otel`).
            name: Of this instance; two differently configured ones in one agent need two names.

        Raises:
            TypeError: The rewriter is no `Runnable`, or `tools` is no list of tools or names.
            ValueError: An option has another value than it may have.
        """
        super().__init__()
        for option, chosen in (("exit_behavior", exit_behavior), ("on_review", on_review), ("mode", mode)):
            if chosen not in _CHOICES[option]:
                msg = f"{option} must be one of {', '.join(_CHOICES[option])}, not {chosen!r}"
                raise ValueError(msg)
        _check_template(violation_message)
        self._name = name or type(self).__name__
        given = {"policy": policy, "phrase": phrase, "fetcher": fetcher, "evidence": evidence, "judge": judge}
        judging = {"answer_judge": answer_judge, "second_reader": second_reader, "telemetry": telemetry}
        self._agent = AgentGuard(
            guard=parts_of(rewriter, **given, **judging, **({} if show_held else {"show_held": False})),
            name=self._name,
            check_input=check_input,
            check_tool_args=check_tool_args,
            check_tool_results=check_tool_results,
            check_output=check_output,
            tools=names_of(tools),
            exit_behavior=exit_behavior,
            on_review=on_review,
            violation_message=violation_message,
            mode=mode,
            parallel=parallel,
        )
        self._model: Any = None

    @property
    def name(self) -> str:
        """Name of this instance."""
        return self._name

    @property
    def checked_tools(self) -> frozenset[str] | None:
        """Names of the tools whose calls and results are checked; `None` for all."""
        return self._agent.tools

    @hook_config(can_jump_to=["model", "end"])
    def before_model(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about what is held: tool results, and whatever a new message came upon."""
        return self._publish(review_held(self._agent, state), runtime)

    @hook_config(can_jump_to=["model", "end"])
    async def abefore_model(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about what is held: tool results, and whatever a new message came upon."""
        return self.before_model(state, runtime)

    @hook_config(can_jump_to=["model", "end"])
    def after_model(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about the turn, the answer or the calls that are held."""
        return self._publish(review_answer(self._agent, state), runtime)

    @hook_config(can_jump_to=["model", "end"])
    async def aafter_model(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about the turn, the answer or the calls that are held."""
        return self.after_model(state, runtime)

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about held results that no model will see, and enter the checks of those that passed (`return_direct`)."""
        update = self._publish(review_held(self._agent, state), runtime)
        return update if update is not None else passed_results(self._agent, state)

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> Update | None:
        """Ask a person about held results that no model will see, and enter the checks of those that passed."""
        return self.after_agent(state, runtime)

    def _publish(self, update: Update | None, runtime: Runtime[Any]) -> Update | None:
        """Publish what a person decided, like any other check."""
        if update is not None:
            self._agent.report(runtime.stream_writer, update["verdicts"])
        return update

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Check what goes into the model and what comes out."""
        return run(self._model_call(request, handler))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """Check what goes into the model and what comes out."""
        return await arun(self._model_call(request, handler))

    def _model_call(self, request: ModelRequest[Any], handler: Callable[..., Any]) -> Flow[ExtendedModelResponse[Any]]:
        self._model = request.model
        agent = self._agent.for_run()
        return guard_model_call(agent, request, AskedModel(request, handler, mutes=agent.mutes))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Check a tool's arguments before it runs and its results before the model sees them."""
        return cast("ToolMessage | Command[Any]", run(self._tool_call(request, handler)))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Check a tool's arguments before it runs and its results before the model sees them."""
        return cast("ToolMessage | Command[Any]", await arun(self._tool_call(request, handler)))

    def _tool_call(self, request: ToolCallRequest, handler: Callable[..., Any]) -> Flow[Any]:
        return guard_tool_call(self._agent.for_run(), request, handler, self._model)


def _check_template(template: str | None) -> None:
    try:
        (template or "").format(hazards="", reason="", stage="", action="", safe_way="")
    except (KeyError, IndexError, ValueError) as error:
        msg = (
            f"violation_message may use {{hazards}}, {{reason}}, {{stage}}, {{action}} and {{safe_way}} only: {error!r}"
        )
        raise ValueError(msg) from error
