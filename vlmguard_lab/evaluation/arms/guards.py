"""The plain model, and this package's guard whole and in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from langchain_vlmguard.errors import EvaluationError, NoThresholdError
from langchain_vlmguard.faces.graph import create_vlm_guard
from langchain_vlmguard.models.guard_files import FOLDER, PROBE_FILE
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.rewriting.gate_judge import withholding_risk
from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter
from langchain_vlmguard.verdict.policy import GuardPolicy
from vlmguard_lab.evaluation.arms.base import ANSWER_TOKENS, Arm, ArmCard, Defence, with_tools
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.content.evidence import EvidenceReader
    from vlmguard_lab.evaluation.arms.base import Target

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
    answer_judge: Literal["auto"] | None = None,
    second_reader: Literal["auto"] | None = None,
) -> Any:
    """Return the build of the guard graph around a chat model."""

    def build(tools: Sequence[dict[str, Any]]) -> Runnable[Any, Any]:
        return create_vlm_guard(
            with_tools(model)(tools),
            rewriter,
            policy=policy,
            evidence=evidence,
            answer_judge=answer_judge,
            second_reader=second_reader,
        ).compile()

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
    return Defence(guarded(model, policy=policy), options=_facts(model, policy), chat=model, refuse_at=policy.unsafe_at)


def rewriter_for(target: Target) -> ReasoningRewriter:
    """Return the rewriter in front of the target, else its own trained adapter, else the target itself asked to rewrite.

    Raises:
        EvaluationError: The target knows too few words to be asked, and has no adapter.
    """
    if target.rewriter is not None:
        return target.rewriter
    if target.adapter is not None and target.loaded is not None:
        return ReasoningRewriter.from_adapter(steered_chat(target, None), target.adapter)
    if target.plain_words:
        msg = f"{target.name!r} cannot rewrite without a trained adapter, and none is here: train one, or leave this arm out"
        raise EvaluationError(msg)
    return ReasoningRewriter.from_model(target.chat)


def _rewriting(target: Target) -> Defence:
    rewriter = rewriter_for(target)
    return Defence(guarded(target.chat, rewriter), options={"rewriter": rewriter.identity}, rewriter=rewriter)


def _full(
    target: Target,
    evidence: EvidenceReader | None = None,
    gate_unsafe_at: float | None = None,
    rewrite: Literal["always", "adaptive", "answer_first"] = "always",
    answer_judge: Literal["auto"] | None = "auto",
    second_reader: Literal["auto"] | None = None,
    **choices: Any,
) -> Defence:
    model, rewriter = steered_chat(target), rewriter_for(target)
    at = gate_unsafe_at or withholding_risk_of(target)
    policy = GuardPolicy(
        on_gate_open="keep" if at is None else "refuse",
        on_gate_open_rewritten="keep",
        gate_unsafe_at=at,
        rewrite=rewrite,
        rewritten_pictures="drop",
        **choices,
    )
    options = {**_facts(model, policy), "rewriter": rewriter.identity}
    if evidence is not None:
        options["evidence"] = evidence.identity
    build = guarded(model, rewriter, policy, evidence, answer_judge, second_reader)
    past = {"always": (), "adaptive": (model.screening,), "answer_first": (None,)}[rewrite]
    if rewrite == "answer_first" and policy.rewriting.judge_answers == "uncleared":
        past = (None, model.screening)
    return Defence(build, options=options, chat=model, refuse_at=at, rewriter=rewriter, past=past)


def withholding_risk_of(target: Target) -> float | None:
    """Return the gate risk from which the full guard withholds: on a testbed by harmless requests of the seen split.

    `None` where no risk tells them from harmful ones: the gate then steers and withholds nothing. Other targets have no such
    requests here: the policy's own `unsafe_at` is used.
    """
    if not target.plain_words:
        return GuardPolicy().unsafe_at
    if target not in _RISKS:
        harmless = [c for c in cells("seen") if not c.harmful and c.family != "tool"]
        asked = [request.message() for cell in harmless for request in cell.sample(_CALIBRATED, seed=_CALIBRATION_SEED)]
        try:
            _RISKS[target] = round(withholding_risk(steered_chat(target), asked), 6)
        except NoThresholdError:
            _RISKS[target] = None
    return _RISKS[target]


_RISKS: WeakKeyDictionary[Target, float | None] = WeakKeyDictionary()
_CALIBRATED, _CALIBRATION_SEED = 100, 13
"""Harmless requests of each cell that the full guard's withholding is set by."""


def _full_with_evidence(target: Target) -> Defence:
    from langchain_vlmguard.content.evidence import EvidenceReader

    return _full(target, EvidenceReader())


def _full_adaptive(target: Target, gate_unsafe_at: float | None = None) -> Defence:
    return _full(_probed(target), gate_unsafe_at=gate_unsafe_at, rewrite="adaptive")


def _full_unjudged(target: Target, gate_unsafe_at: float | None = None) -> Defence:
    return _full(target, gate_unsafe_at=gate_unsafe_at, answer_judge=None)


def _full_answer_first(target: Target, gate_unsafe_at: float | None = None, **choices: Any) -> Defence:
    target = _probed(target)
    return _full(target, gate_unsafe_at=gate_unsafe_at, rewrite="answer_first", second_reader="auto", **choices)


def _full_strict(target: Target, gate_unsafe_at: float | None = None) -> Defence:
    return _full_answer_first(target, gate_unsafe_at, on_second_reading="refuse")


def _full_fast(target: Target, gate_unsafe_at: float | None = None) -> Defence:
    return _full_answer_first(target, gate_unsafe_at, judge_answers="uncleared")


def _probed(target: Target) -> Target:
    if target.weights.probe is None:
        msg = f"{target.name!r} has no probe: fit one; write_guard_files puts it into {FOLDER}/{PROBE_FILE}"
        raise EvaluationError(msg)
    return target


def _facts(model: ChatSteeredVLM, policy: GuardPolicy) -> dict[str, Any]:
    return {"steering": _identity(model), "policy": policy.hash, "thresholds": policy.thresholds}


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
            "this package: rewriter, steering, refusal of what the gate finds unsafe in prompts that go on unchanged, and of "
            "answers that a probe finds harmful in words alone",
            "as `rewriting`, without the picture beside a rewritten prompt; else as `gate_refuses` from halfway, in "
            "log-odds, between harmless tuning requests and certainty, and as `steering` where those reach it; refuse where "
            "sigma(w x + b) of the answer's own states, read as a prompt without pictures, is `unsafe`",
            "ours",
            needs="local",
        ),
        _full,
    ),
    Arm(
        ArmCard(
            "full_adaptive",
            "this package: `full`, but turns that a probe on words and pictures clears are answered without the rewriter",
            "as `full` unless sigma(w x + b) of the prefill's states is below the probe's threshold, else as `none`",
            "ours",
            "Attacked twice: as `full`, and past it, by turns that the probe clears. Either success counts.",
            needs="local",
        ),
        _full_adaptive,
    ),
    Arm(
        ArmCard(
            "full_answer_first",
            "this package: `full`, but the plain answer is tried first and released where a probe finds it, and a second "
            "reader's, safe in words alone; else the rewriter's word counts",
            "as `full` unless sigma(w x + b) of the plain answer's own states is `safe`, else as `none`",
            "ours",
            "Attacked twice: as `full`, and past it, by the plain model's answer. Either success counts.",
            needs="local",
        ),
        _full_answer_first,
    ),
    Arm(
        ArmCard(
            "full_fast",
            "this package: `full_answer_first`, but answers to turns that a probe on words and pictures clears are not judged",
            "as `none` where sigma(w x + b) of the prefill's states is below the probe's threshold, else as `full_answer_first`",
            "ours",
            "Attacked three times: as `full`, and past it, by the plain model's answer, and by turns that the probe clears.",
            needs="local",
        ),
        _full_fast,
    ),
    Arm(
        ArmCard(
            "full_strict",
            "this package: `full_answer_first`, but what the second reader would answer with harm is refused, whatever the "
            "rewriter says",
            "as `full_answer_first`, and refuse where sigma(w x + b) of the second reader's answer is `unsafe`",
            "ours",
            "Not attacked: on the attacked target, rewriter and target are one model, and there is no second reader.",
            needs="local",
        ),
        _full_strict,
    ),
    Arm(
        ArmCard(
            "full_unjudged",
            "this package: `full`, but nobody judges the answers",
            "as `full` without its last step",
            "ours",
            needs="local",
        ),
        _full_unjudged,
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
