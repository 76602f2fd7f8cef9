"""How each coding agent is told what a hook decided: one writer an agent, with documented keys alone.

A hook's only safe failure is the one that its agent reads as "deny"; to let something pass is to say nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vlmguard.content.signatures import may_be_picture
from langchain_vlmguard.serving.hook_events import CALL, RESULT

if TYPE_CHECKING:
    from langchain_vlmguard.serving.hook_events import HookEvent
    from langchain_vlmguard.verdict.records import Json

BLOCKED = 2
"""Exit code that agents read as "no", with a reason on stderr."""

_BLANK = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture of one pixel, in place of one that is withheld."""

_LONGEST = 600
_KINDS, _KNOWN = ("type", "mimeType", "media_type"), ("text", "image", "base64")
_TEXTS = ("text", "stdout", "content", "result", "output", "message")


@dataclass(frozen=True)
class Told:
    """What a hook leaves behind."""

    code: int = 0
    stdout: str = ""
    stderr: str = ""


def claude_code(event: HookEvent | None, reason: str, *, keep_going: bool = False) -> Told:
    """Deny in the form that Claude Code reads.

    A call and a prompt are stopped by exit code 2. What a tool returned is there already: it is replaced, and the agent stops,
    unless it should keep going with the replacement.
    """
    if event is None or event.name != RESULT:
        return Told(BLOCKED, stderr=_plain(reason))
    instead = {"hookEventName": RESULT, "updatedToolOutput": withheld(event.result, _plain(reason))}
    denial: Json = {"decision": "block", "reason": _plain(reason), "hookSpecificOutput": instead}
    if not keep_going:
        denial |= {"continue": False, "stopReason": _plain(reason)}
    return Told(stdout=json.dumps(denial))


def codex(event: HookEvent | None, reason: str, *, keep_going: bool = False) -> Told:  # noqa: ARG001 - one form for all writers
    """Deny in the form that Codex reads: JSON with exit code 0, for it loses exit codes inside shell wrappers."""
    if event is None:
        return Told(BLOCKED, stderr=_plain(reason))
    if event.name == CALL:
        decided = {"permissionDecision": "deny", "permissionDecisionReason": _plain(reason)}
        return Told(stdout=json.dumps({"hookSpecificOutput": {"hookEventName": CALL, **decided}}))
    return Told(stdout=json.dumps({"decision": "block", "reason": _plain(reason)}))


WRITERS = {"claude-code": claude_code, "codex": codex}
"""By the agent's name."""


def withheld(result: object, notice: str) -> object:
    """Return something of a tool result's own form that holds nothing of it but a notice."""
    if isinstance(result, list):
        return [{"type": "text", "text": notice}]
    if not isinstance(result, dict):
        return notice
    where = next((key for key in _TEXTS if isinstance(result.get(key), str | list)), None)
    return {key: withheld(one, notice) if key == where else _emptied(key, one) for key, one in result.items()}


def _emptied(key: str, value: object) -> object:
    """Return a value of the same form without its words: names of known kinds stay."""
    if isinstance(value, dict):
        return {inner: _emptied(inner, one) for inner, one in value.items()}
    if isinstance(value, list):
        return []
    if not isinstance(value, str):
        return value
    if key in _KINDS:
        return value if value in _KNOWN else "image/png" if value.startswith("image/") else ""
    return _BLANK if may_be_picture(value) else ""


def _plain(reason: str) -> str:
    """Return a reason in one line, never empty."""
    words = " ".join("".join(one if one.isprintable() else " " for one in reason).split())[:_LONGEST]
    return words or "The guard does not let this pass."
