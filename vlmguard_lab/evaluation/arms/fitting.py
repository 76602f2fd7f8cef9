"""Fit peers on a target: hidden states of the anchors, as text and beside neutral pictures, and what formulas make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import normalize

from langchain_vlmguard.steering.activations import last_token_states
from langchain_vlmguard.steering.anchors import load_anchors
from langchain_vlmguard.steering.directions import AnchorStates
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.neutral import neutral_pictures
from vlmguard_lab.evaluation.arms.peers import (
    CMRM,
    Astra,
    Cast,
    InferAligner,
    Mars,
    NullSteer,
    ShiftDC,
    null_projector,
    nullsteer_matrix,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

    from vlmguard_lab.evaluation.arms.base import Target


_STATES: WeakKeyDictionary[Target, AnchorStates] = WeakKeyDictionary()


def anchor_states(target: Target) -> AnchorStates:
    """Return the target's anchor states, run once for all peers."""
    if target not in _STATES:
        anchors = target.anchors or load_anchors()
        neutral = neutral_pictures()
        runs = [
            states_of(target, texts, pictures)
            for pictures in ((), neutral)
            for texts in (anchors.harmful, anchors.harmless)
        ]
        _STATES[target] = AnchorStates(*runs)
    return _STATES[target]


def states_of(target: Target, texts: Sequence[str], pictures: Sequence[Image.Image]) -> Tensor:
    """Run texts, beside the pictures in turn where there are some, `(texts, layers, hidden)`."""
    loaded = target.weights
    prompts = [Prompt(text, pictures[i % len(pictures)] if pictures else None) for i, text in enumerate(texts)]
    return last_token_states(loaded.model, loaded.processor, prompts, batch_size=64)


def fit_inferaligner(target: Target, alpha: float) -> InferAligner:
    """Fit `theta`, `s` and `b` on text."""
    states = anchor_states(target)
    theta = states.difference
    s = normalize(theta, dim=-1)
    middle = (states.harmful.mean(0) + states.harmless.mean(0)) / 2
    return InferAligner(theta, s, -(middle * s).sum(-1), alpha)


def fit_cmrm(target: Target, alpha: float) -> CMRM:
    """Fit the mean shift on every anchor, harmful or not: the method needs no labels."""
    states = anchor_states(target)
    shown = torch.cat([states.shown_harmful, states.shown_harmless])
    return CMRM((shown - torch.cat([states.harmful, states.harmless])).mean(0), alpha)


def fit_shiftdc(target: Target, alpha: float) -> ShiftDC:
    """Fit the safety direction on text."""
    return ShiftDC(anchor_states(target).difference, alpha)


def fit_mars(target: Target, alpha: float) -> Mars:
    """Fit direction and trust region on text, the centre beside neutral pictures."""
    states = anchor_states(target)
    v = normalize(states.difference, dim=-1)

    def centre(harmful: Tensor, harmless: Tensor) -> Tensor:
        return ((harmful.mean(0) + harmless.mean(0)) / 2 * v).sum(-1)

    return Mars(
        v,
        centre(states.harmful, states.harmless),
        centre(states.shown_harmful, states.shown_harmless),
        states.difference.norm(dim=-1),
        alpha,
    )


def fit_astra(target: Target, adversarial: Tensor, clean: Tensor, alpha: float) -> Astra:
    """Fit `v` on what adversarial pictures add to the same harmful requests, `h0` on harmless ones beside neutral pictures.

    Args:
        target: The target.
        adversarial: States beside adversarial pictures, `(requests, layers, hidden)`.
        clean: States of the same requests beside the pictures before the attack.
        alpha: Strength.
    """
    return Astra((adversarial - clean).mean(0), anchor_states(target).shown_harmless.mean(0), alpha)


def fit_cast(target: Target, alpha: float) -> Cast:
    """Fit the condition vector (first principal component of the centred classes) and its threshold on text."""
    states = anchor_states(target)
    both = torch.cat([states.harmful, states.harmless]).transpose(0, 1)
    c = torch.linalg.svd(both - both.mean(1, keepdim=True), full_matrices=False).Vh[:, 0]
    blank = Cast(c, torch.zeros(len(c)), torch.ones(len(c), dtype=torch.bool), states.difference, alpha)
    layers = range(len(c))
    harmful, harmless = (
        torch.stack([blank.cosine(group[:, layer], layer).mean() for layer in layers])
        for group in (states.harmful, states.harmless)
    )
    return Cast(c, (harmful + harmless) / 2, harmful > harmless, states.difference, alpha)


def fit_nullsteer(
    target: Target, alpha: float, *, kept: float = 0.5, size: float = 1.0, away: float = 0.1
) -> NullSteer:
    """Fit the matrix of every layer: harmful states beside neutral pictures are to gain the refusal direction of text.

    Args:
        target: The target.
        alpha: The paper's lambda.
        kept: Share of directions that steering may use.
        size: Weight of the matrix's size.
        away: Weight of the suppressed harmful direction.
    """
    states = anchor_states(target)
    benign = torch.cat([states.harmless, states.shown_harmless])
    matrices = []
    for layer in range(states.harmful.shape[1]):
        projector = null_projector(benign[:, layer], kept)
        harmful = states.shown_harmful[:, layer].T
        refusal = states.difference[layer][:, None].expand_as(harmful)
        drift = (states.shown_harmful[:, layer] - states.harmful[:, layer]).mean(0)[:, None]
        found = nullsteer_matrix(harmful, refusal, drift, projector, alpha=size, beta=away)
        matrices.append(found @ projector)
    return NullSteer(torch.stack(matrices), alpha)
