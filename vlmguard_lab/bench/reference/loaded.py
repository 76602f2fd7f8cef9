"""The reference model in memory, with directions fitted and layers chosen on it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.models.guard_files import write_guard_files
from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.steering.anchors import load_anchors
from langchain_vlmguard.steering.directions import SafetyDirections
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.interventions import Push, Restore
from langchain_vlmguard.steering.selection import candidates, select_layers
from vlmguard_lab.evaluation.arms.base import Target

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_vlmguard.models.loading import LoadedVLM

_DEPTHS = (0.55, 0.65, 0.75, 0.85)
"""Layers that are tried, as shares of the decoder's depth."""

_STRENGTHS = (1.0, 2.0)
_FITTED, _TRIED = 0.75, 16
"""Share of the anchors that directions are fitted on, and how many pairs of the others choose the layers."""

_BATCH = 8
_ANSWERED = 32
"""Rows that are answered together: on a CPU, a step of 32 rows takes about twice as long as one of 8."""


@cache
def load(checkpoint: Path) -> LoadedVLM:
    """Load the model once."""
    return load_vlm(str(checkpoint), device="cpu")


@cache
def target(checkpoint: Path, tokens: int) -> Target:
    """Return the model as what arms defend; peers are fitted on the same anchors as the directions."""
    loaded = load(checkpoint)
    chat = ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=tokens, batch_size=_ANSWERED)
    return Target(checkpoint.name, chat, loaded, load_anchors().split(_FITTED)[0])


def fit(checkpoint: Path, tokens: int) -> dict[str, Any]:
    """Fit directions, choose layers and strength on held-out anchors, and lay them beside the checkpoint.

    Returns:
        The card of the directions, how far the classes lie apart by layer, and what was tried.
    """
    loaded = load_vlm(str(checkpoint), device="cpu")
    fitting, others = load_anchors().split(_FITTED)
    directions = SafetyDirections.fit(loaded.model, loaded.processor, fitting, model_id=checkpoint.name, progress=False)
    held_out = type(others)(others.name, others.pairs[:: max(1, len(others) // _TRIED)][:_TRIED])
    layers = [(round(depth * (directions.card.layers - 1)),) for depth in _DEPTHS]
    tried = candidates(
        directions, layers=layers, interventions=[Restore(), *(Push(alpha) for alpha in _STRENGTHS)], reads=("both",)
    )
    directions, trials = select_layers(
        loaded.model,
        loaded.processor,
        directions,
        held_out,
        keep=[Prompt("What is the capital of Portugal?"), Prompt("How do I keep bread fresh?")],
        tried=tried,
        max_tokens=min(24, tokens),
        batch_size=_BATCH,
    )
    write_guard_files(checkpoint, directions=directions)
    load.cache_clear()
    target.cache_clear()
    return {
        "choice": directions.card.choice,
        "anchors": directions.card.anchors,
        "separability": {key: [round(x, 3) for x in row] for key, row in directions.separability.items()},
        "trials": [
            {
                "layers": list(trial.steering.layers),
                "intervention": trial.steering.intervention.name,
                "alpha": trial.steering.intervention.alpha,
                "refused": round(trial.refused, 3),
                "kept": round(trial.kept, 3),
            }
            for trial in trials
        ],
    }
