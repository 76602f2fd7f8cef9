"""One row of the log: what a check found and did, without a word that anybody wrote."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from langchain_vlmguard.guard.state import CheckRecord
    from langchain_vlmguard.verdict.records import Json

Label = Literal["fine", "harmful"]
"""What a person says of a turn that was checked."""

BEGINNING = "0" * 64
"""What the first row of a log is chained to."""

RISKS = ("risk", "answer_risk", "evidence_risk", "second_risk", "gate")
"""Numbers from 0 to 1 that a row may hold: the risk of the turn, of the answer, of words in pictures, of what a second reader
would say, and the gate's."""


@dataclass(frozen=True)
class Row:
    """A row as it was written."""

    number: int
    at: str
    """When, in UTC, by ISO 8601."""

    record: Json
    """What `written` keeps."""

    hash: str
    """SHA-256 of the hash before it, the time and the record."""

    label: Label | None = None


def written(check: CheckRecord) -> Json:
    """Return what is kept of a check: names, numbers, ids and hashes, and nothing that a person, a model or a tool wrote."""
    verdict = check["verdict"]
    steering = verdict["steering"] or {}
    risks = {**{name: verdict.get(name) for name in RISKS}, "gate": steering.get("risk")}
    return {
        "stage": check["stage"],
        "guard": check["guard"],
        "tool": check["tool"],
        "action": verdict["action"],
        "enforced": verdict["enforced"],
        "severity": verdict["severity"],
        "answer": verdict["answer"],
        "reviewed": verdict["reviewed"],
        "failed": (verdict["failure"] or {}).get("stage"),
        "hazards": [{"id": one["id"], "channel": one["channel"]} for one in verdict["hazards"]],
        "security": [one["kind"] for one in verdict["security"]],
        "unjudged": [one["kind"] for one in verdict["unjudged"]],
        "risks": {name: value for name, value in risks.items() if value is not None},
        "policy": verdict["provenance"]["policy"],
        "thresholds": verdict["provenance"]["thresholds"],
        "seconds": round(sum(verdict["timings"].values()), 6),
    }


def canonical(record: Json) -> str:
    """Return a record as the text that is hashed."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def chained(before: str, at: str, record: str) -> str:
    """Return the hash of a row after another one."""
    return hashlib.sha256(f"{before}\n{at}\n{record}".encode()).hexdigest()
