"""Put a family of requests to an arm, and keep what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.reference.loaded import target
from vlmguard_lab.evaluation.runner import Plan, evaluate
from vlmguard_lab.reference.families.registry import suite_of

if TYPE_CHECKING:
    from vlmguard_lab.bench.reference.plan import Measurement

_AT_ONCE = 32


def answered(plan: Measurement, arm: str, family: str) -> list[dict[str, Any]]:
    """Return one row a request: what was asked, what was answered, and whether phrases take it for a refusal."""
    suite = suite_of(family, plan.sources, limit=plan.limit(arm))
    asked = {item.id: item for item in suite.items}
    run = Plan([suite], arms=[arm], judges=["refusal_strings"], max_tokens=plan.tokens, concurrency=_AT_ONCE)
    folder = plan.work / "logs" / f"{arm}-{family}"
    _, rows = evaluate(run, folder, target=target(plan.checkpoint, plan.tokens))
    return [
        {
            "item": row.item,
            "cell": row.cell,
            "harmful": row.harmful,
            "text": row.text,
            "picture": asked[row.item].reference.get("picture") or _shown(asked[row.item].reference),
            "pictured": row.picture is not None,
            "answer": row.answer,
            "refused": bool(row.marks["refused"]),
        }
        for row in rows
    ]


def _shown(reference: dict[str, Any]) -> str:
    """Return a drawn request's picture in words, for a judge that cannot see it."""
    drawn = reference.get("instruction")
    return f"a text: {drawn}" if drawn else ""
