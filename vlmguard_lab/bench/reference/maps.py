"""Requests in two dimensions of the steered layer: text against picture, before and after (VLM-Guard's figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from langchain_vlmguard.steering.activations import capture_last_token, last_token_states, padded_positions
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts
from langchain_vlmguard.steering.neutral import neutral_pictures
from vlmguard_lab.bench.reference.loaded import load
from vlmguard_lab.reference.families.words import harmful_texts, harmless_texts
from vlmguard_lab.reference.labels import split_of

if TYPE_CHECKING:
    from torch import Tensor

    from langchain_vlmguard.models.loading import LoadedVLM
    from vlmguard_lab.bench.reference.plan import Measurement

_BATCH = 8
_SETS = {"harmful": "advbench", "harmless": "xstest_safe"}


def maps_of(plan: Measurement) -> list[dict[str, Any]]:
    """Return `{"condition", "layer", "harmful", "harmless"}`, points `(x, y)`, typed, beside blank, and beside it steered.

    The plane is that of the two first principal components of the typed requests' states after the last layer, so that what a
    picture does and what steering does show in the same place.
    """
    loaded = load(plan.checkpoint)
    texts = {"harmful": list(harmful_texts(plan.sources)), "harmless": list(harmless_texts(plan.sources))}
    asked = {
        name: [text for source, text in texts[name] if source == wanted and split_of(text) == "held_out"][
            : plan.counts.states
        ]
        for name, wanted in _SETS.items()
    }
    blank = neutral_pictures(noise=0, colours=0)[0]
    typed = {name: _states(loaded, [Prompt(text) for text in rows]) for name, rows in asked.items()}
    beside = {name: _states(loaded, [Prompt(text, blank) for text in rows]) for name, rows in asked.items()}
    steered = {name: _steered(loaded, [Prompt(text, blank) for text in rows]) for name, rows in asked.items()}
    whole = torch.cat(list(typed.values()))
    centre = whole.mean(dim=0)
    _, _, axes = torch.pca_lowrank(whole - centre, q=2)
    return [
        {
            "condition": condition,
            "layer": -1,
            **{name: _rounded((states - centre) @ axes) for name, states in found.items()},
        }
        for condition, found in (("typed", typed), ("beside blank", beside), ("beside blank, steered", steered))
    ]


def _states(loaded: LoadedVLM, prompts: list[Prompt]) -> Tensor:
    return last_token_states(loaded.model, loaded.processor, prompts, batch_size=_BATCH)[:, -1]


def _steered(loaded: LoadedVLM, prompts: list[Prompt]) -> Tensor:
    steering = loaded.recommended
    if steering is None:
        msg = "directions were not fitted: run the part `directions` first"
        raise ValueError(msg)
    last = steering.directions.card.layers - 1
    found = []
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        inputs = encode_prompts(loaded.processor, part)
        words = encode_prompts(loaded.processor, [Prompt(prompt.text) for prompt in part])
        pictured = torch.ones(len(part), dtype=torch.bool)
        with (
            torch.inference_mode(),
            steering.attach(loaded.model, pictured=pictured, inputs=inputs, text_inputs=words),
            capture_last_token(loaded.model, [last]) as states,
        ):
            loaded.model(**inputs, **padded_positions(inputs, loaded.model), use_cache=False)
        found.append(states[last].float())
    return torch.cat(found)


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(float(x), 3), round(float(y), 3)] for x, y in points]
