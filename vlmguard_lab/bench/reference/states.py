"""How far the hidden states tell harmful from harmless requests, typed and beside meaningless pictures, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from langchain_vlmguard.steering.activations import last_token_states
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.head_fitting import area
from langchain_vlmguard.steering.neutral import neutral_pictures
from vlmguard_lab.bench.reference.loaded import load
from vlmguard_lab.reference.families.words import harmful_texts, harmless_texts
from vlmguard_lab.reference.labels import split_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vlmguard_lab.bench.reference.plan import Measurement

SETS = {"advbench": "xstest_safe", "harmbench": "xstest_safe", "xstest_unsafe": "xstest_safe"}
"""Harmful sets and the harmless ones that they are told from."""

CONDITIONS = ("typed", "blank", "noise")
_BATCH = 8
_FALSE_ALARMS = 0.05


def gate_rows(plan: Measurement, harmful_set: str, condition: str) -> list[dict[str, Any]]:
    """Return `{"layer", "set", "condition", "auc", "tpr_at_fpr5"}` of every layer, on the held-out half.

    The coordinate is `h · v` with `v` the first direction of the layer, what the gate reads.
    """
    loaded = load(plan.checkpoint)
    if loaded.directions is None:
        msg = "directions were not fitted: run the part `directions` first"
        raise ValueError(msg)
    vectors = loaded.directions.vectors[:, 0]
    harmful = _texts(harmful_texts(plan.sources), harmful_set, plan.counts.states)
    harmless = _texts(harmless_texts(plan.sources), SETS[harmful_set], plan.counts.states)
    blank, noise = neutral_pictures(noise=1, colours=0, seed=_SEED)
    picture = {"typed": None, "blank": blank, "noise": noise}[condition]
    scores = []
    for texts in (harmful, harmless):
        prompts = [Prompt(text, picture) for text in texts]
        states = last_token_states(loaded.model, loaded.processor, prompts, batch_size=_BATCH)
        scores.append(torch.einsum("nld,ld->ln", states, vectors))
    return [
        {
            "layer": layer,
            "set": f"{harmful_set}:{SETS[harmful_set]}",
            "condition": condition,
            "auc": round(area(scores[0][layer], scores[1][layer]), 4),
            "tpr_at_fpr5": round(found_at(scores[0][layer], scores[1][layer]), 4),
        }
        for layer in range(len(vectors))
    ]


_SEED = 5


def found_at(harmful: Tensor, harmless: Tensor, false_alarms: float = _FALSE_ALARMS) -> float:
    """Return the share of harmful scores above a threshold that at most this share of harmless ones reaches."""
    threshold = harmless.sort(descending=True).values[int(false_alarms * len(harmless))]
    return float((harmful > threshold).float().mean())


def _texts(rows: Sequence[tuple[str, str]] | Any, name: str, limit: int) -> list[str]:
    return [text for source, text in rows if source == name and split_of(text) == "held_out"][:limit]
