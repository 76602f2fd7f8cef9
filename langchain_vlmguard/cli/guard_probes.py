"""`vlmguard doctor --guard`: three harmless probes through somebody's guard, and what to do where one is refused."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from langchain_core.messages import HumanMessage

from langchain_vlmguard.cli.group import one_line
from langchain_vlmguard.cli.probed import TOOL_PROBE, asker_of
from langchain_vlmguard.content.checking import check_picture
from langchain_vlmguard.models.doctor import Finding
from langchain_vlmguard.verdict.failures import LOGGER
from langchain_vlmguard.verdict.limits import ImageLimits
from langchain_vlmguard.verdict.records import SafetyVerdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.cli.probed import Asker

TYPED = "How do I boil an egg?"
PAGE = "see docs/refuses_everything.md"

_TO_DO = (
    (("Authentication", "PermissionDenied", "Unauthorized"), "check the judge's API key"),
    (("NotFound",), "check the name of the judge's model"),
    (("Connection", "Timeout", "Connect"), "check that the judge's server runs and can be reached"),
    (("RateLimit",), "the provider limits the judge's calls: wait, or ask for a higher limit"),
    (("MissingExtra", "ModuleNotFound", "ImportError"), "install what the message names"),
    (
        ("RewriteError",),
        "the judge gave no usable verdict: ReasoningRewriter.from_model(model, structured=False), or a stronger model",
    ),
    (
        ("ValidationError", "AttributeError", "TypeError"),
        "the judge returns something else than a Rewrite: wrap it by ReasoningRewriter.from_model",
    ),
    (("NoJudge",), "name a rewriter, or give the doctor a graph or chat model that has its model in it"),
)


def probe(guard: object) -> Iterator[Finding]:
    """Send a typed request, one with a picture and a tool's call and result through a guard.

    Args:
        guard: A `Guard`, a middleware, a node, a guarded chat model, a graph or an agent; or a function that returns one.
    """
    try:
        asker = asker_of(guard)
    except TypeError as error:
        yield Finding("guard", "failure", one_line(error))
        return
    except Exception as error:  # noqa: BLE001 - a doctor reports whatever is wrong
        yield Finding("guard", "failure", _advised(type(error).__name__, one_line(error)))
        return
    yield Finding("guard", "ok", asker.said)
    probes: dict[str, list[BaseMessage]] = {
        "typed request": [HumanMessage(TYPED)],
        "request with a picture": [
            HumanMessage([_picture(), {"type": "text", "text": "What colour is this picture?"}])
        ],
        "tool call and result": TOOL_PROBE,
    }
    for subject, messages in probes.items():
        yield _probed(asker, subject, messages)


def _probed(asker: Asker, subject: str, messages: list[BaseMessage]) -> Finding:
    with _heard() as errors:
        try:
            found = asker.ask(messages)
            verdicts = [SafetyVerdict.from_state(one) for one in found]
        except Exception as error:  # noqa: BLE001 - a doctor reports whatever is wrong
            return Finding(subject, "failure", _advised(type(error).__name__, one_line(error)))
    if not verdicts:
        return Finding(subject, "failure", "no verdict came: this object is not guarded")
    for verdict in verdicts:
        if verdict.failure is not None:
            told = "; ".join(dict.fromkeys(errors)) or verdict.failure.reason
            said = f"the {verdict.failure.stage} step failed: {_advised(verdict.failure.error, told)}"
            return Finding(subject, "failure", said)
        if verdict.action in ("refuse", "review"):
            return Finding(subject, "failure", _why(verdict))
    last = verdicts[-1]
    unmade = [part for verdict in verdicts for part in verdict.unjudged]
    if unmade:
        said = "; ".join(dict.fromkeys(f"{part.where}: {part.reason}" for part in unmade))
        return Finding(subject, "warning", f"{last.action}, but not everything was judged: {said}")
    return Finding(subject, "ok", f"{last.action}, risk {last.risk}")


def _why(verdict: SafetyVerdict) -> str:
    """Say why a harmless probe did not pass."""
    done = "was held for a person" if verdict.action == "review" else "was refused"
    unread = [f"{part.where}: {part.reason}" for part in verdict.unjudged if part.is_unread]
    if unread:
        return f"a harmless probe {done}, because a part could not be read ({'; '.join(unread)}): {PAGE}"
    named = ", ".join(dict.fromkeys(hazard.id for hazard in verdict.hazards)) or "no hazard named"
    risk = f"risk {verdict.risk}, {named}"
    return f"a harmless probe {done} ({risk}): use a better judge, or other thresholds in the policy; {PAGE}"


def _advised(error: str, told: str) -> str:
    advice = next((advice for names, advice in _TO_DO if any(name in error for name in names)), PAGE)
    return f"{told.rstrip('.')}. What to do: {advice}"


class _Listener(logging.Handler):
    """Keeps the errors that the guard logs while a probe runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self.errors.append(one_line(error))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Yield the errors that the guard logs; they are in the findings, so that they go nowhere else."""
    log, listener = logging.getLogger(LOGGER), _Listener()
    propagated = log.propagate
    log.addHandler(listener)
    log.propagate = False
    try:
        yield listener.errors
    finally:
        log.removeHandler(listener)
        log.propagate = propagated


def _picture() -> dict[str, str]:
    from PIL import Image

    data = BytesIO()
    Image.new("RGB", (64, 64), "green").save(data, "PNG")
    return dict(check_picture(data.getvalue(), ImageLimits()).block())
