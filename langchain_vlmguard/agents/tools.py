"""For tools: act on the verdict of the turn, rather than only not running."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any

from langchain_core.runnables import RunnableConfig  # noqa: TC002 - BaseTool reads the annotation
from langchain_core.tools import BaseTool, ToolException
from langgraph.prebuilt import InjectedState
from pydantic import ConfigDict, SkipValidation, create_model

from langchain_vlmguard.guard.state import current_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_vlmguard.verdict.records import SafetyVerdict

_STATE = "vlmguard_state"

TurnState = Annotated[Any, InjectedState]
"""Annotation for a tool's parameter that gets the agent's state, as `current_verdict` reads it; the model never sees it."""


def is_safe(verdict: SafetyVerdict) -> bool:
    """Whether a turn was judged and is not `unsafe` as it stands, or was rewritten, or a person let it go on."""
    decided = verdict.action == "rewrite" or verdict.reviewed in ("approve", "edit")
    return decided or verdict.severity in ("safe", "controversial")


def requires_verdict(
    tool: BaseTool,
    when: Callable[[SafetyVerdict], bool] = is_safe,
    *,
    otherwise: str = "This tool does not run for this request: {reason}",
) -> BaseTool:
    """Return a tool that runs only after a verdict that lets the turn go on, and of which `when` says yes.

    Works in `ToolNode` and `create_agent`, in any graph whose state has the key `verdict`. Without a verdict, after a refusal and
    after a failure of the guard it does not run, whatever `when` says.

    Args:
        tool: Any tool, with its schema, injected arguments and all.
        when: Decides from the checked verdict; an error in it means no.
        otherwise: What the model is told when the tool does not run; may use `{reason}`.

    ??? example "Only for turns that nobody objects to"

        ```python
        pay = requires_verdict(pay, when=lambda verdict: verdict.severity == "safe")
        ```
    """
    otherwise.format(reason="")
    fields: dict[str, Any] = {
        key: getattr(tool, key) for key in ("name", "description", "return_direct", "response_format")
    }
    fields |= {key: getattr(tool, key) for key in ("tags", "metadata", "extras") if hasattr(tool, key)}
    fields |= _schema_with_state(tool)
    return _VerdictTool(inner=tool, when=when, otherwise=otherwise, handle_tool_error=True, **fields)


def _schema_with_state(tool: BaseTool) -> dict[str, Any]:
    """Return how `ToolNode` learns that the tool wants the state: from its schema, or from a function beside a JSON schema."""
    if isinstance(tool.args_schema, dict):
        return {"args_schema": tool.args_schema, "func": _wants_state}
    schema: Any = tool.get_input_schema()
    state: Any = (TurnState, ...)
    return {"args_schema": create_model(schema.__name__, __base__=schema, __doc__=schema.__doc__, **{_STATE: state})}


def _wants_state(vlmguard_state: TurnState) -> None:
    """Carry the annotation."""


class _VerdictTool(BaseTool):
    """A tool behind a condition on the verdict."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: BaseTool
    when: SkipValidation[Any]
    otherwise: str
    func: SkipValidation[Any] = None

    def _run(self, *, config: RunnableConfig, run_manager: Any = None, **args: Any) -> Any:  # noqa: ARG002 - BaseTool's form
        self._check(args.pop(_STATE, None))
        return self.inner._run(**_with_config(self.inner._run, args, config))  # noqa: SLF001 - the inner tool of the same interface

    async def _arun(self, *, config: RunnableConfig, run_manager: Any = None, **args: Any) -> Any:  # noqa: ARG002
        self._check(args.pop(_STATE, None))
        return await self.inner._arun(**_with_config(self.inner._arun, args, config))  # noqa: SLF001

    def _check(self, state: Any) -> None:
        verdict = current_verdict(state)
        if verdict is None:
            reason = "the turn has no verdict."
        elif self._agrees(verdict):
            return
        else:
            reason = verdict.reason or f"the guard decided {verdict.action!r} at severity {verdict.severity!r}."
        raise ToolException(self.otherwise.format(reason=reason))

    def _agrees(self, verdict: SafetyVerdict) -> bool:
        if verdict.action not in ("allow", "rewrite") or verdict.failure is not None:
            return False
        try:
            return bool(self.when(verdict))
        except Exception:  # noqa: BLE001 - a condition that fails is not met
            return False


def _with_config(run: Callable[..., Any], args: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
    """Add the config if the tool's own method takes it."""
    return {**args, "config": config} if "config" in signature(run).parameters else dict(args)
