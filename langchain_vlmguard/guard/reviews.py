"""What a person decided about a turn that was held for review."""

from __future__ import annotations

from typing import Any


def decided(decision: Any, proposed: str | None) -> dict[str, Any]:
    """Translate what a person answered; anything that is not one of the three options refuses.

    Approving a turn whose rewriting the policy wanted reviewed approves the rewritten prompt.
    """
    said = decision.get("decision") if isinstance(decision, dict) else decision
    edited = decision.get("prompt") if isinstance(decision, dict) else None
    if said == "approve":
        action = "rewrite" if proposed else "allow"
        return {"action": action, "reviewed": "approve", "reason": "A person approved this turn."}
    if said == "edit" and isinstance(edited, str) and edited.strip():
        reason = "A person edited the prompt."
        return {"action": "rewrite", "reviewed": "edit", "rewritten_prompt": edited, "reason": reason}
    if said == "reject":
        return {"action": "refuse", "reviewed": "reject", "reason": "A person rejected this turn."}
    reason = "The review ended without a usable decision: answer approve, reject, or edit with a prompt."
    return {"action": "refuse", "reason": reason}
