"""The plain model, and this package's guard whole and in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.evaluation.arms.base import ANSWER_TOKENS, Arm, ArmCard, Defence, with_tools
from langchain_vlmguard.guard import create_vlm_guard
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.policy import GuardPolicy
from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.content.evidence import EvidenceReader
    from langchain_vlmguard.evaluation.arms.base import Target

BATCH = 64


def steered_chat(target: Target, steering: Any = "auto") -> ChatSteeredVLM:
    """Return the target as a chat model under some steering, weights shared with every other arm."""
    return ChatSteeredVLM.from_loaded(
        target.weights, steering=steering, max_tokens=_max_tokens(target.chat), batch_size=BATCH
    )


def guarded(
    model: BaseChatModel,
    rewriter: Any = None,
    policy: GuardPolicy | None = None,
    evidence: EvidenceReader | None = None,
) -> Any:
    """Return the build of the guard graph around a chat model."""

    def build(tools: Sequence[dict[str, Any]]) -> Runnable[Any, Any]:
        return create_vlm_guard(with_tools(model)(tools), rewriter, policy=policy, evidence=evidence).compile()

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


def rewriter_for(target: Target) -> ReasoningRewriter:
    """Return the target's rewriter: its trained adapter, else the target itself asked to rewrite.

    Raises:
        EvaluationError: The target knows too few words to be asked, and has no adapter.
    """
    if target.adapter is not None and target.loaded is not None:
        return ReasoningRewriter.from_adapter(steered_chat(target, None), target.adapter)
    if target.plain_words:
        msg = f"{target.name!r} cannot rewrite without a trained adapter, and none is here: train one, or leave this arm out"
        raise EvaluationError(msg)
    return ReasoningRewriter.from_model(target.chat)


def _rewriting(target: Target) -> Defence:
    rewriter = rewriter_for(target)
    return Defence(guarded(target.chat, rewriter), options={"rewriter": rewriter.identity})


def _full(target: Target, evidence: EvidenceReader | None = None) -> Defence:
    model, rewriter = steered_chat(target), rewriter_for(target)
    policy = GuardPolicy(on_gate_open="refuse")
    options = {"steering": _identity(model), "rewriter": rewriter.identity, "policy": policy.hash}
    if evidence is not None:
        options["evidence"] = evidence.identity
    return Defence(guarded(model, rewriter, policy, evidence), options=options, chat=model)


def _full_with_evidence(target: Target) -> Defence:
    from langchain_vlmguard.content.evidence import EvidenceReader  # noqa: PLC0415 - an extra

    return _full(target, EvidenceReader())


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
    Arm(
        ArmCard(
            "rewriting",
            "VLMGuard-R1 (arXiv 2504.12661), as this package builds it, no steering",
            "x_T' = R(x_T, x_I, A)",
            "secondary",
            "Known from summaries; rewriter and data are this package's. Without an adapter the target rewrites for itself.",
        ),
        _rewriting,
    ),
    Arm(
        ArmCard(
            "full",
            "this package: rewriter, steering, and refusal of what the gate finds unsafe",
            "as `rewriting`, then as `gate_refuses`",
            "ours",
            needs="local",
        ),
        _full,
    ),
    Arm(
        ArmCard(
            "full_evidence",
            "this package: `full`, and the words, codes and metadata in pictures judged as if typed (extra `evidence`)",
            "as `full`; refuse or review where the words in a picture are unsafe",
            "ours",
            "Several seconds of OCR a picture on a CPU.",
            needs="local",
        ),
        _full_with_evidence,
    ),
)
