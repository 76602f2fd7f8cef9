"""A rewriter's model with structured output, however it is wrapped, and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableParallel, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from pydantic import ValidationError

from langchain_vlmguard.rewriting.replies import is_cut, read_json, report_in, spoken
from langchain_vlmguard.rewriting.report import Model, Rewrite

if TYPE_CHECKING:
    from collections.abc import Mapping


def structured_of(model: Model) -> Model | None:
    """Return a model that gives rewrites by structured output, under the wrappers that it came in; `None` if it cannot."""
    if isinstance(model, RunnableWithFallbacks):
        every = [structured_of(one) for one in model.runnables]
        able = [one for one in every if one is not None]
        if len(able) < len(every):
            return None
        return model.model_copy(update={"runnable": able[0], "fallbacks": able[1:]})
    if isinstance(model, RunnableBindingBase):
        inner = structured_of(model.bound)
        inner = inner if inner is None or not model.kwargs else with_arguments(inner, model.kwargs)
        return None if inner is None else model.model_copy(update={"bound": inner, "kwargs": {}})
    if isinstance(model, DynamicRunnable | RunnableSequence):
        return None
    try:
        made: Model = model.with_structured_output(Rewrite, include_raw=True)  # type: ignore[attr-defined]
    except (NotImplementedError, AttributeError):
        return None
    return made


def with_arguments(structured: Model, arguments: Mapping[str, object]) -> Model | None:
    """Return a model with structured output whose calls carry arguments; `None` if it is not built as LangChain's are."""
    if not arguments:
        return structured
    if isinstance(structured, RunnableWithFallbacks):
        every = [with_arguments(one, arguments) for one in structured.runnables]
        able = [one for one in every if one is not None]
        whole = len(able) == len(every)
        return structured.model_copy(update={"runnable": able[0], "fallbacks": able[1:]}) if whole else None
    if isinstance(structured, RunnableBindingBase):
        inner = with_arguments(structured.bound, arguments)
        return None if inner is None else structured.model_copy(update={"bound": inner})
    if not isinstance(structured, RunnableSequence) or not isinstance(structured.first, RunnableParallel):
        return None
    steps = structured.first.steps__
    if steps.keys() != {"raw"}:
        return None
    asked: Runnable[object, object] = RunnableParallel(raw=steps["raw"].bind(**arguments))
    return RunnableSequence(asked, *structured.steps[1:])


def from_structured(answer: object, *, quotable: bool) -> Rewrite:
    """Read what a model with structured output gave; where no call or object was parsed, its words.

    Args:
        answer: The object, or a mapping with `raw`, `parsed` and `parsing_error`.
        quotable: Whether the turn holds parts of a report, which the words may quote.

    Raises:
        ValueError: It is not usable.
    """
    raw, parsed, problem = _parts(answer)
    if isinstance(raw, AIMessage) and not raw.tool_calls and str(raw.text).strip():
        return Rewrite.model_validate(read_json(report_in(spoken(raw), quotable=quotable)))
    if isinstance(raw, AIMessage):
        _check(raw)
        parsed = _called(raw) if parsed is None else parsed
    if parsed is None:
        msg = "it is not the structured result that was asked for" + (f": {first_line(problem)}" if problem else "")
        raise ValueError(msg)
    return parsed if isinstance(parsed, Rewrite) else Rewrite.model_validate(parsed)


def _parts(answer: object) -> tuple[object, object, object]:
    if isinstance(answer, dict) and "parsed" in answer:
        return answer.get("raw"), answer["parsed"], answer.get("parsing_error")
    return None, answer, None


def _called(raw: AIMessage) -> object:
    """Return the arguments of the call that holds the rewrite, which a parser threw away, so that what is wrong can be said."""
    return next((call["args"] for call in raw.tool_calls if call["name"] == Rewrite.__name__), None)


def first_line(error: object) -> str:
    """Return what an error says in one line, without the value that it is about."""
    if isinstance(error, OutputParserException) and isinstance(error.__cause__, ValidationError):
        error = error.__cause__
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
    if isinstance(error, OutputParserException):
        return "it cannot be parsed"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check(raw: AIMessage) -> None:
    """Check that an answer is whole and decides once.

    Raises:
        ValueError: It does not.
    """
    if is_cut(raw):
        spoken(raw)
    decided = [call["args"] for call in raw.tool_calls if call["name"] == Rewrite.__name__]
    if any(one != decided[0] for one in decided[1:]):
        msg = "it decides more than once, and not the same"
        raise ValueError(msg)
