"""Verdicts as other contracts put them: Agent Control Specification, agent-hooks and OpenGuardrails, as plain dicts.

Written from the published JSON Schemas (ACS 0.4 `wire/verdict`, agent-hooks 0.1 `verdict`, OGR 1.0 `Verdict`).
"""

from __future__ import annotations

import hashlib
import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from langchain_vlmguard.verdict.records import SafetyVerdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_vlmguard.verdict.records import Hazard, Json

TARGET = "$target"
"""Root of paths that both ACS and agent-hooks accept; ACS before 0.4 called it `$policy_target`."""

OGR_CATEGORIES: Mapping[str, str] = MappingProxyType(
    {
        "mlcommons:vcr": "safety.violence",
        "mlcommons:ncr": "safety.illicit",
        "mlcommons:src": "safety.sexual",
        "mlcommons:cse": "safety.sexual.minors",
        "mlcommons:dfm": "safety.brand",
        "mlcommons:spc": "safety.unsafe_advice",
        "mlcommons:prv": "privacy.pii",
        "mlcommons:iwp": "safety.weapons",
        "mlcommons:hte": "safety.toxicity",
        "mlcommons:ssh": "safety.self_harm",
        "mlcommons:sxc": "safety.sexual",
    }
)
"""The closest OGR category; a hazard without one, such as `mlcommons:ipv`, is exported under `x.` with its own id."""

_OGR_SECURITY = MappingProxyType(
    {
        "prompt_injection": "security.prompt_injection",
        "jailbreak": "security.jailbreak",
        "exfiltration": "security.data_exfiltration",
        "tool_misuse": "security.tool_poisoning",
    }
)
_OGR_SEVERITY = MappingProxyType({None: "low", "safe": "low", "controversial": "medium", "unsafe": "high"})


def to_acs(
    verdict: SafetyVerdict | Json,
    *,
    contract: Literal["acs", "agent_hooks"] = "acs",
    path: str = TARGET,
) -> Json:
    """Return a verdict in Microsoft's Agent Control Specification, or in the agent-hooks contract below it.

    Allow is `allow`; a rewriting is `transform`; a refusal is `deny`; a review is `escalate` in ACS and a `deny` that an approval
    can lift in agent-hooks. Where the guard itself failed or could not read a part, `reason` says so.

    Args:
        verdict: The verdict, or its dict from graph state.
        contract: Which of the two contracts.
        path: Where in the policy target the prompt stands that a rewriting replaces.

    Raises:
        ValidationError: The dict is no verdict.
    """
    checked = _checked(verdict)
    exported: Json = {"reason": _reason(checked), "message": checked.reason or None}
    if checked.action == "rewrite":
        exported |= {"decision": "transform", "transform": {"path": path, "value": checked.rewritten_prompt}}
    elif checked.action == "review":
        exported |= {"decision": "escalate"} if contract == "acs" else {"decision": "deny", "approval": {}}
    else:
        exported["decision"] = "allow" if checked.action == "allow" else "deny"
    if contract == "agent_hooks":
        exported["warnings"] = [{"reason": f"hazard:{hazard.id}", "message": None} for hazard in checked.hazards]
    exported["evidence"] = {"artefact": f"sha256:{fingerprint(checked)}"}
    exported["result_labels"] = [
        f"vlmguard:{checked.severity or 'unjudged'}",
        *(f"vlmguard:{hazard.id}" for hazard in checked.hazards),
    ]
    return exported


def to_ogr(
    verdict: SafetyVerdict | Json,
    *,
    event_id: str,
    provider: str = "langchain-vlmguard",
    prompt: tuple[str, int] | None = None,
) -> Json:
    """Return a verdict in OpenGuardrails' contract.

    OGR knows `allow` and `block`. A rewriting is an `allow` that replaces the prompt if the caller says where it stands;
    otherwise it is a `block`, for the prompt as it stands must not go on. So is a review.

    Args:
        verdict: The verdict, or its dict from graph state.
        event_id: Id of the judged event.
        provider: Name under which the verdict is given.
        prompt: Payload path of the prompt and its length in characters.

    Raises:
        ValidationError: The dict is no verdict.
        ValueError: The event has no id.
    """
    if not event_id or not provider:
        msg = "OGR needs the id of the judged event and the provider's name"
        raise ValueError(msg)
    checked = _checked(verdict)
    replaced = checked.action == "rewrite" and prompt is not None
    exported: Json = {
        "event_id": event_id,
        "provider": provider,
        "decision": "allow" if checked.action == "allow" or replaced else "block",
        "latency_ms": round(1000 * sum(checked.timings.values()), 3),
        "findings": [_finding(checked, hazard) for hazard in checked.hazards],
        "unjudged": [part.where for part in checked.unjudged],
    }
    severity = _OGR_SEVERITY[checked.severity]
    exported["findings"] += [
        {"category": _OGR_SECURITY[finding.kind], "severity": severity, "detector": provider}
        for finding in checked.security
    ]
    if replaced and prompt is not None:
        span = {"path": prompt[0], "start": 0, "end": prompt[1], "replacement": checked.rewritten_prompt}
        exported["modifications"] = {"spans": [span]}
    return exported


def fingerprint(verdict: SafetyVerdict) -> str:
    """Return the SHA-256 of a verdict's canonical JSON, apart from its timings."""
    plain = verdict.model_dump(mode="json", exclude={"timings"})
    return hashlib.sha256(
        json.dumps(plain, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def _checked(verdict: SafetyVerdict | Json) -> SafetyVerdict:
    return verdict if isinstance(verdict, SafetyVerdict) else SafetyVerdict.from_state(verdict)


def _reason(verdict: SafetyVerdict) -> str:
    if verdict.failure is not None:
        return f"vlmguard:failed:{verdict.failure.stage}"
    if any(part.is_unread for part in verdict.unjudged):
        return "vlmguard:unreadable"
    return f"vlmguard:{verdict.action}"


def _finding(verdict: SafetyVerdict, hazard: Hazard) -> Json:
    own = re.sub(r"[^a-z0-9_.]", "_", hazard.id.lower().replace(":", "."))
    finding: Json = {
        "category": OGR_CATEGORIES.get(hazard.id, f"x.{own}"),
        "severity": _OGR_SEVERITY[verdict.severity],
        "score": (verdict.risk or 0.0) if hazard.score is None else hazard.score,
        "detector": verdict.provenance.rewriter or "langchain-vlmguard",
    }
    return finding
