"""The plain model, and this package's guard whole and in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_vlmguard.evaluation.arms.base import ANSWER_TOKENS, Arm, ArmCard, Defence, with_tools
from langchain_vlmguard.guard import create_vlm_guard
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.policy import GuardPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.evaluation.arms.base import Target

BATCH = 64


def steered_chat(target: Target, steering: Any = "auto") -> ChatSteeredVLM:
    """Return the target as a chat model under some steering, weights shared with every other arm."""
    return ChatSteeredVLM.from_loaded(
        target.weights, steering=steering, max_tokens=_max_tokens(target.chat), batch_size=BATCH
    )


def guarded(model: BaseChatModel, rewriter: Any = None, policy: GuardPolicy | None = None) -> Any:
    """Return the build of the guard graph around a chat model."""

    def build(tools: Sequence[dict[str, Any]]) -> Runnable[Any, Any]:
        return create_vlm_guard(with_tools(model)(tools), rewriter, policy=policy).compile()

    return build


def _max_tokens(chat: BaseChatModel) -> int:
    return int(getattr(chat, "max_tokens", ANSWER_TOKENS) or ANSWER_TOKENS)


def _none(target: Target) -> Defence:
    return Defence(with_tools(target.chat))


def _steering(target: Target) -> Defence:
    model = steered_chat(target)
    return Defence(guarded(model), options={"steering": _identity(model)}, chat=model)


def _gate_refuses(target: Target) -> Defence:
    model = steered_chat(target)
    policy = GuardPolicy(on_gate_open="refuse")
    return Defence(
        guarded(model, policy=policy), options={"steering": _identity(model), "policy": policy.hash}, chat=model
    )


def _identity(model: ChatSteeredVLM) -> str | None:
    steering = model.active_steering
    return steering.identity if steering else None


GUARD_ARMS = (
    Arm(ArmCard("none", "the target as it is", "h* = h", "ours"), _none),
    Arm(
        ArmCard(
            "steering",
            "this package: the guard graph with the checkpoint's recommended steering, no rewriter",
            "h* = h + alpha g (T_harmful - T_harmless) v, g graded by the clean prefill of the text-only query (testbed)",
            "ours",
            needs="local",
        ),
        _steering,
    ),
    Arm(
        ArmCard(
            "gate_refuses",
            "this package: steering, and whatever its gate finds unsafe is refused by the graph",
            "as `steering`; refuse where the gate's risk is at least the policy's `unsafe_at`",
            "ours",
            needs="local",
        ),
        _gate_refuses,
    ),
)
