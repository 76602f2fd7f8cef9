"""A hook of a coding agent: reads an event, asks a guard within a deadline of its own, and says "deny" whatever fails."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from langchain_vlmguard.errors import MissingExtraError, VLMGuardError, extra
from langchain_vlmguard.serving.hook_events import read_event
from langchain_vlmguard.serving.hook_writers import Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.serving.hook_events import HookEvent
    from langchain_vlmguard.verdict.records import Json

    Ask = Callable[[Json], Json]
    """Asks a guard, in the form of LiteLLM's generic guardrail API."""

_MOST_BYTES = 64_000_000
_NO_ANSWER = "The guard gave no answer, so this does not go on: {}."
_LATE = "The guard gave no answer in time, so this does not go on."
_ROUTE = "/beta/litellm_basic_guardrail_api"


class Writer(Protocol):
    """Denies in the form that one agent reads."""

    def __call__(self, event: HookEvent | None, reason: str, *, keep_going: bool = False) -> Told:
        """Return what the hook leaves behind; the event is `None` if it could not be read."""


class CannotAskError(VLMGuardError):
    """There is no answer of a guard; the words say why, and may be shown."""


@dataclass
class _Work:
    """What the thread that asks has come to."""

    event: HookEvent | None = None
    reason: str | None = _LATE
    """Why it does not pass; `None` if it passes."""


def run_hook(
    stdin: BinaryIO, writer: Writer, make_ask: Callable[[], Ask], seconds: float, *, keep_going: bool = False
) -> Told:
    """Judge the event on stdin and return what the hook leaves behind. It raises nothing.

    Args:
        stdin: Where the agent writes.
        writer: How it is told.
        make_ask: Makes what asks a guard; whatever it raises is a denial, too.
        seconds: Most seconds for all of it: well below what the agent waits, for a hook that is late lets everything pass.
        keep_going: Whether the agent should go on after a tool result that was withheld.
    """
    work = _Work()
    thread = threading.Thread(target=_judge, args=(work, stdin, make_ask), daemon=True)
    thread.start()
    thread.join(seconds)
    reason = work.reason
    return Told() if reason is None else writer(work.event, reason, keep_going=keep_going)


def asks_server(url: str, key: str | None, seconds: float) -> Ask:
    """Return what asks a running `vlmguard serve`."""
    with extra("serve"):
        import httpx

    headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def ask(body: Json) -> Json:
        try:
            answer = httpx.post(
                f"{url.rstrip('/')}{_ROUTE}", json=body, headers=headers, timeout=seconds, trust_env=False
            )
            given = answer.json() if answer.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            msg = f"the server could not be asked ({type(error).__name__})"
            raise CannotAskError(msg) from error
        if not isinstance(given, dict):
            msg = f"the server answered with status {answer.status_code}"
            raise CannotAskError(msg)
        return given

    return ask


def asks_guard(guard: GuardParts) -> Ask:
    """Return what asks a guard in this process."""
    from langchain_vlmguard.serving.guardrail import Given, guardrail
    from langchain_vlmguard.serving.judging import Judging

    judging = Judging(guard)
    return lambda body: asyncio.run(guardrail(judging, Given.of(body)))


def _judge(work: _Work, stdin: BinaryIO, make_ask: Callable[[], Ask]) -> None:
    try:
        raw = stdin.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            work.reason = _NO_ANSWER.format("the event is too large")
            return
        work.event = read_event(raw)
        work.reason = _reason_in(make_ask()(work.event.body))
    except (CannotAskError, MissingExtraError) as error:
        work.reason = _NO_ANSWER.format(error)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the agent must hear "no"
        unread = work.event is None and isinstance(error, ValueError)
        work.reason = _NO_ANSWER.format(error if unread else type(error).__name__)


def _reason_in(answer: Json) -> str | None:
    """Return why something does not pass, `None` if it does."""
    action = answer.get("action")
    if action == "NONE":
        return None
    if action == "BLOCKED":
        return str(answer.get("blocked_reason") or "") or "The guard does not let this pass."
    if action == "GUARDRAIL_INTERVENED":
        texts = answer.get("texts")
        said = [one for one in texts if isinstance(one, str)] if isinstance(texts, list) else []
        return f"The guard would put this otherwise. Ask in its place: {' '.join(said)}"
    return _NO_ANSWER.format("it has no form that is known")
