"""Judges: how far they agree with people, and what the model judge says of the answers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from langchain_vlmguard.verdict.refusal_phrases import sounds_like_refusal
from vlmguard_lab.evaluation.judges import contains_refusal
from vlmguard_lab.reference.agreement import Agreement, best_threshold
from vlmguard_lab.reference.harm_judge import EXAMPLES, QUESTION, TASK, Case, HarmJudge
from vlmguard_lab.reference.labels import balanced, harm_labels, refusal_labels
from vlmguard_lab.statistics import kappa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vlmguard_lab.bench.reference.plan import Measurement

REFUSALS = {"opening": sounds_like_refusal, "phrases": contains_refusal}
"""Detectors of refusals: a phrase in the first 120 letters, or one of a longer list anywhere."""


@cache
def judge(folder: Path) -> HarmJudge:
    """Load the model that judges harm once."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return HarmJudge(model, AutoProcessor.from_pretrained(folder, backend="pil"))


def refusal_agreement(plan: Measurement) -> dict[str, Any]:
    """Compare the detectors of refusals with people.

    People there call an answer beside the point a refusal, too, which no phrase can see: the share of such answers bounds what
    any detector of phrases can find, so recall on the answers that hold a phrase of either list is not given apart.
    """
    labelled = refusal_labels(plan.public / "refusal_labels")
    people = tuple(one.label for one in labelled)
    return {
        name: Agreement(tuple(detect(one.answer) for one in labelled), people).to_json()
        for name, detect in REFUSALS.items()
    }


def harm_agreement(plan: Measurement, folder: Path) -> dict[str, Any]:
    """Compare the judges of harm with people, on MSTS's answers; the picture is given in words.

    Returns:
        The model judge's threshold, chosen on the seen half, and on the held-out half: each judge's agreement with people, and
        the judges' kappa with each other.
    """
    labelled = balanced(harm_labels(plan.public / "msts"), plan.counts.labels)
    scores = judge(folder).scores([Case(one.request, one.answer, one.picture) for one in labelled])
    seen = [(score, one.label) for score, one in zip(scores, labelled, strict=True) if one.split == "seen"]
    threshold = best_threshold([score for score, _ in seen], [label for _, label in seen])
    others = [(score, one) for score, one in zip(scores, labelled, strict=True) if one.split == "held_out"]
    people = tuple(one.label for _, one in others)
    by_model = tuple(score >= threshold for score, _ in others)
    by_phrases = tuple(not contains_refusal(one.answer) for _, one in others)
    return {
        "model": folder.name,
        "threshold": round(threshold, 4),
        "prompt": {"task": TASK, "question": QUESTION, "examples": len(EXAMPLES)},
        "labels": "MSTS, as many harmful as harmless answers, held-out half",
        "by_model": Agreement(by_model, people).to_json(),
        "by_phrases": Agreement(by_phrases, people).to_json(),
        "kappa_of_the_two": round(kappa(by_model, by_phrases), 3),
    }


def harm_scores(folder: Path, rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the model judge's scores of answers."""
    return judge(folder).scores([Case(row["text"], row["answer"], row["picture"]) for row in rows])
