"""Guard multimodal LangChain and LangGraph agents: reasoning-based rewriting in front of a steered local VLM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_vlmguard._version import __version__

if TYPE_CHECKING:
    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.decisions import VLMGuardDecisionModel as VLMGuardDecisionModel
    from langchain_vlmguard.errors import (
        AdapterError,
        DirectionsMismatchError,
        GuardViolationError,
        RewriteError,
        UnreadableContentError,
        UnsupportedArchitectureError,
        VLMGuardError,
    )
    from langchain_vlmguard.exports import to_acs, to_ogr
    from langchain_vlmguard.gate_judge import GateJudge, Wording
    from langchain_vlmguard.guard import create_vlm_guard
    from langchain_vlmguard.guard_state import GuardContext, VLMGuardState
    from langchain_vlmguard.guarded_model import GuardedChatModel
    from langchain_vlmguard.middleware import VLMGuardMiddleware
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.node import VLMGuardNode, route_on_verdict
    from langchain_vlmguard.policy import GuardPolicy
    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter, Rewrite
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.selection import select_layers
    from langchain_vlmguard.steering.steering import Steering
    from langchain_vlmguard.testbed import load_testbed
    from langchain_vlmguard.tools import current_verdict, requires_verdict
    from langchain_vlmguard.verdict import Hazard, SafetyVerdict

_HOMES = {
    "AdapterError": "errors",
    "ChatSteeredVLM": "models.steered_vlm",
    "DirectionsMismatchError": "errors",
    "EvidenceReader": "content.evidence",
    "GateJudge": "gate_judge",
    "GuardContext": "guard_state",
    "GuardPolicy": "policy",
    "GuardViolationError": "errors",
    "GuardedChatModel": "guarded_model",
    "Hazard": "verdict",
    "PictureFetcher": "content.fetch",
    "ReasoningRewriter": "rewriting.rewriter",
    "Rewrite": "rewriting.rewriter",
    "RewriteError": "errors",
    "SafetyDirections": "steering.directions",
    "SafetyVerdict": "verdict",
    "Steering": "steering.steering",
    "UnreadableContentError": "errors",
    "UnsupportedArchitectureError": "errors",
    "VLMGuardDecisionModel": "decisions",
    "VLMGuardError": "errors",
    "VLMGuardMiddleware": "middleware",
    "VLMGuardNode": "node",
    "VLMGuardState": "guard_state",
    "Wording": "gate_judge",
    "create_vlm_guard": "guard",
    "current_verdict": "tools",
    "load_testbed": "testbed",
    "requires_verdict": "tools",
    "route_on_verdict": "node",
    "select_layers": "steering.selection",
    "to_acs": "exports",
    "to_ogr": "exports",
}

__all__ = [
    "AdapterError",
    "ChatSteeredVLM",
    "DirectionsMismatchError",
    "EvidenceReader",
    "GateJudge",
    "GuardContext",
    "GuardPolicy",
    "GuardViolationError",
    "GuardedChatModel",
    "Hazard",
    "PictureFetcher",
    "ReasoningRewriter",
    "Rewrite",
    "RewriteError",
    "SafetyDirections",
    "SafetyVerdict",
    "Steering",
    "UnreadableContentError",
    "UnsupportedArchitectureError",
    "VLMGuardError",
    "VLMGuardMiddleware",
    "VLMGuardNode",
    "VLMGuardState",
    "Wording",
    "__version__",
    "create_vlm_guard",
    "current_verdict",
    "load_testbed",
    "requires_verdict",
    "route_on_verdict",
    "select_layers",
    "to_acs",
    "to_ogr",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs neither torch nor langgraph."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
