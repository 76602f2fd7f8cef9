"""Guard multimodal LangChain and LangGraph agents: reasoning-based rewriting in front of a steered local VLM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_vlmguard._version import __version__ as __version__

if TYPE_CHECKING:
    from langchain_vlmguard.agents.decisions import VLMGuardDecisionModel as VLMGuardDecisionModel
    from langchain_vlmguard.agents.guard import Guard as Guard
    from langchain_vlmguard.agents.middleware import VLMGuardMiddleware as VLMGuardMiddleware
    from langchain_vlmguard.agents.tools import requires_verdict as requires_verdict
    from langchain_vlmguard.content.evidence import EvidenceReader as EvidenceReader
    from langchain_vlmguard.content.fetch import PictureFetcher as PictureFetcher
    from langchain_vlmguard.content.picture_classes import OnnxClassifier as OnnxClassifier
    from langchain_vlmguard.content.picture_classes import PictureClassifier as PictureClassifier
    from langchain_vlmguard.content.picture_classes import PipelineClassifier as PipelineClassifier
    from langchain_vlmguard.errors import AdapterError as AdapterError
    from langchain_vlmguard.errors import DirectionsMismatchError as DirectionsMismatchError
    from langchain_vlmguard.errors import GuardViolationError as GuardViolationError
    from langchain_vlmguard.errors import NoJudgeError as NoJudgeError
    from langchain_vlmguard.errors import RewriteError as RewriteError
    from langchain_vlmguard.errors import UnreadableContentError as UnreadableContentError
    from langchain_vlmguard.errors import UnsupportedArchitectureError as UnsupportedArchitectureError
    from langchain_vlmguard.errors import VLMGuardError as VLMGuardError
    from langchain_vlmguard.faces.chat_model import GuardedChatModel as GuardedChatModel
    from langchain_vlmguard.faces.graph import create_vlm_guard as create_vlm_guard
    from langchain_vlmguard.faces.node import VLMGuardNode as VLMGuardNode
    from langchain_vlmguard.faces.node import route_on_verdict as route_on_verdict
    from langchain_vlmguard.guard.state import GuardContext as GuardContext
    from langchain_vlmguard.guard.state import VLMGuardState as VLMGuardState
    from langchain_vlmguard.guard.state import current_verdict as current_verdict
    from langchain_vlmguard.models.loading import load_testbed as load_testbed
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM as ChatSteeredVLM
    from langchain_vlmguard.rewriting.gate_judge import GateJudge as GateJudge
    from langchain_vlmguard.rewriting.gate_judge import Wording as Wording
    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter as ReasoningRewriter
    from langchain_vlmguard.rewriting.rewriter import Rewrite as Rewrite
    from langchain_vlmguard.serving.from_file import load_guard as load_guard
    from langchain_vlmguard.steering.directions import SafetyDirections as SafetyDirections
    from langchain_vlmguard.steering.selection import select_layers as select_layers
    from langchain_vlmguard.steering.steering import Steering as Steering
    from langchain_vlmguard.verdict.exports import to_acs as to_acs
    from langchain_vlmguard.verdict.exports import to_ogr as to_ogr
    from langchain_vlmguard.verdict.policy import GuardPolicy as GuardPolicy
    from langchain_vlmguard.verdict.policy import PictureLabel as PictureLabel
    from langchain_vlmguard.verdict.records import Hazard as Hazard
    from langchain_vlmguard.verdict.records import SafetyVerdict as SafetyVerdict

_NAMES = {
    "agents.decisions": ("VLMGuardDecisionModel",),
    "agents.guard": ("Guard",),
    "agents.middleware": ("VLMGuardMiddleware",),
    "agents.tools": ("requires_verdict",),
    "content.evidence": ("EvidenceReader",),
    "content.fetch": ("PictureFetcher",),
    "content.picture_classes": ("OnnxClassifier", "PictureClassifier", "PipelineClassifier"),
    "errors": (
        "AdapterError",
        "DirectionsMismatchError",
        "GuardViolationError",
        "NoJudgeError",
        "RewriteError",
        "UnreadableContentError",
        "UnsupportedArchitectureError",
        "VLMGuardError",
    ),
    "faces.chat_model": ("GuardedChatModel",),
    "faces.graph": ("create_vlm_guard",),
    "faces.node": ("VLMGuardNode", "route_on_verdict"),
    "guard.state": ("GuardContext", "VLMGuardState", "current_verdict"),
    "models.loading": ("load_testbed",),
    "models.steered_vlm": ("ChatSteeredVLM",),
    "rewriting.gate_judge": ("GateJudge", "Wording"),
    "rewriting.rewriter": ("ReasoningRewriter", "Rewrite"),
    "serving.from_file": ("load_guard",),
    "steering.directions": ("SafetyDirections",),
    "steering.selection": ("select_layers",),
    "steering.steering": ("Steering",),
    "verdict.exports": ("to_acs", "to_ogr"),
    "verdict.policy": ("GuardPolicy", "PictureLabel"),
    "verdict.records": ("Hazard", "SafetyVerdict"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - names all


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs neither torch nor langgraph."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from langchain_vlmguard.errors import extra

    with extra("local"):
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
