"""Arms that edit hidden states: VLM-Guard's readings, and peers by their formulas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.steering.gates import AlwaysOpen, MidpointGate, ReluGate, ZeroGate
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from langchain_vlmguard.steering.steering import Steering
from vlmguard_lab.evaluation.arms import fitting
from vlmguard_lab.evaluation.arms.adversarial import fit_astra_here
from vlmguard_lab.evaluation.arms.base import Arm, ArmCard, Defence, with_tools
from vlmguard_lab.evaluation.arms.captions import (
    CAPTION_PROMPT,
    PLAIN_CAPTION_PROMPT,
    QUERY_CAPTION_PROMPT,
    CaptionedVLM,
    ecso,
)
from vlmguard_lab.evaluation.arms.guards import BATCH, steered_chat
from vlmguard_lab.evaluation.arms.hooks import PeerSteering

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_vlmguard.steering.gates import Gate
    from vlmguard_lab.evaluation.arms.base import Evidence, Target
    from vlmguard_lab.evaluation.arms.peers import PeerEdit

GATES: dict[str, Callable[[], Gate]] = {
    "zero": ZeroGate,
    "midpoint": MidpointGate,
    "relu": ReluGate,
    "always_open": AlwaysOpen,
}

_VLM_GUARD = "VLM-Guard (arXiv 2502.10486)"
_OPEN = "Layers, alpha and the positions of the edit are not in any source we could read: chosen on tuning requests."


def _options(alphas: tuple[float, ...], **others: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    """Return the product of options; depths are shares of the decoder's depth."""
    grid = {"alpha": alphas, **others}
    return tuple(dict(zip(grid, values, strict=True)) for values in product(*grid.values()))


def layers_at(target: Target, depths: tuple[float, ...]) -> tuple[int, ...]:
    """Return the layers at some shares of the decoder's depth, 0 the first layer and 1 the last."""
    last = target.directions.card.layers - 1
    return tuple(dict.fromkeys(round(depth * last) for depth in depths))


_DEPTHS = ((0.4,), (0.6,))


def reading(target: Target, name: str, *, alpha: float, depths: tuple[float, ...], gate: str) -> Steering:
    """Return one of the kernel's readings as a steering, gated by the full input's own prefill."""
    return Steering(
        target.directions,
        layers_at(target, depths),
        intervention=INTERVENTIONS[name](alpha=alpha),
        gate=GATES[gate](),
        reads="input",
        decode=True,
    )


def _reading_arm(name: str, formula: str, evidence: Evidence, caveat: str, gates: tuple[str, ...]) -> Arm:
    def make(target: Target, **options: Any) -> Defence:
        model = steered_chat(target, reading(target, name, **options))
        return Defence(with_tools(model), options=_plain(options), chat=model)

    source = _VLM_GUARD if name != "restore" else "this package"
    card = ArmCard(name, source, formula, evidence, caveat, needs="local")
    alphas = (1.0, 4.0) if name not in ("project_out", "restore") else (1.0,)
    return Arm(card, make, _options(alphas, depths=_DEPTHS, gate=gates))


READING_ARMS = (
    _reading_arm(
        "project_out",
        "h* = h - h P",
        "contradictory",
        "The abstract taken literally, ungated: the opposite move of the paper's formula 3; a negative control.",
        ("always_open",),
    ),
    _reading_arm(
        "amplify",
        "h* = h + alpha g h P, g = 1 if h v > 0",
        "contradictory",
        f"Formula 3 with the full input as its own query, as two secondary sources print it. {_OPEN}",
        ("zero", "midpoint"),
    ),
    _reading_arm(
        "transplant",
        "h* = h + alpha g h(q) P",
        "contradictory",
        f"Formula 3 with the text-only query. {_OPEN}",
        ("zero", "midpoint"),
    ),
    _reading_arm(
        "fulfil",
        "h* = h - g h P + alpha g h(q) P",
        "contradictory",
        f"Formulas 1 and 3 chained. {_OPEN}",
        ("zero", "midpoint"),
    ),
    _reading_arm(
        "restore",
        "c' = s c + t on the first coordinate of rows with a picture, g graded",
        "ours",
        "",
        ("relu", "midpoint"),
    ),
)


@dataclass(frozen=True)
class _Peer:
    fit: Callable[..., PeerEdit]
    source: str
    formula: str
    evidence: Evidence
    caveat: str
    alphas: tuple[float, ...] = (1.0, 2.0)
    depths: tuple[tuple[float, ...], ...] = _DEPTHS
    captions: bool = False


def peer_steering(target: Target, edit: PeerEdit, options: dict[str, Any]) -> PeerSteering:
    """Return a fitted edit at the layers that its options name."""
    settings = json.dumps(_plain(options), sort_keys=True)
    return PeerSteering(edit, layers_at(target, options["depths"]), target.directions, settings)


def _peer_arm(name: str, peer: _Peer) -> Arm:
    def make(target: Target, **options: Any) -> Defence:
        fitted = peer.fit(target, alpha=options["alpha"])
        steering = peer_steering(target, fitted, options)
        model = _captioned(target, steering) if peer.captions else steered_chat(target, steering)
        return Defence(with_tools(model), options=_plain(options), chat=model)

    card = ArmCard(name, peer.source, peer.formula, peer.evidence, peer.caveat, needs="local")
    return Arm(card, make, _options(peer.alphas, depths=peer.depths))


def _captioned(target: Target, steering: PeerSteering) -> CaptionedVLM:
    prompt = PLAIN_CAPTION_PROMPT if target.plain_words else CAPTION_PROMPT
    model = CaptionedVLM.from_loaded(
        target.weights,
        steering=steering,
        max_tokens=steered_chat(target).max_tokens,
        batch_size=BATCH,
        caption_prompt=prompt,
    )
    return model.captioned_by(target.chat)


_UPPER_HALF = ((0.6, 0.8, 1.0),)
_PEERS = {
    "inferaligner": _Peer(
        fitting.fit_inferaligner,
        "InferAligner (arXiv 2401.11206)",
        "h* = h + alpha g theta, g = 1 if h_last s + b > 0; every token",
        "recalled",
        "Every position and the mean difference are from its README; gate and bias are recalled. One model plays both parts.",
    ),
    "cmrm": _Peer(
        fitting.fit_cmrm,
        "CMRM (arXiv 2410.09047), dataset variant",
        "h* = h - alpha mean[h(x, img') - h(x)]",
        "secondary",
        "The positions of the edit are not in our notes: last prompt token on. The per-sample variant is not built.",
    ),
    "shiftdc": _Peer(
        fitting.fit_shiftdc,
        "ShiftDC (arXiv 2502.13095)",
        "m = h_img - h_caption; h* = h - alpha (m s / s s) s",
        "primary",
        "By its official code, upper half of the layers; the caption is the plain target's own.",
        alphas=(1.0, 2.0),
        depths=_UPPER_HALF,
        captions=True,
    ),
    "mars_style": _Peer(
        fitting.fit_mars,
        "MARS (arXiv 2606.31876), its recipe",
        "h* = h + min(alpha relu(h v - c_neutral), |T_harmful - T_harmless|) v; first token only",
        "secondary",
        "Only a description was at hand: the recipe is the paper's, the formula is ours.",
    ),
    "astra": _Peer(
        fit_astra_here,
        "ASTRA (arXiv 2411.16721)",
        "h* = h - alpha max(cos(h - h0, v), 0) v",
        "recalled",
        "v is the mean change that attacked pictures cause (PGD on anchors, plain target), not the paper's attribution of single "
        "visual tokens.",
    ),
    "cast": _Peer(
        fitting.fit_cast,
        "CAST (arXiv 2409.05907)",
        "h* = h + f(cos(h, proj_c h) > theta) alpha v",
        "recalled",
        "The action vector is the mean difference of text, not of refusing and complying continuations as in the paper.",
    ),
    "nullsteer": _Peer(
        fitting.fit_nullsteer,
        "NullSteer (arXiv 2603.22094)",
        "h* = h + lambda D P h, P H_benign = 0",
        "contradictory",
        "The closed form in our notes does not minimise the objective beside it; D is the objective's own minimiser.",
    ),
}
PEER_ARMS = tuple(_peer_arm(name, peer) for name, peer in _PEERS.items())


def _ecso(target: Target) -> Defence:
    if target.plain_words:
        return Defence(
            with_tools(target.chat), lambda: ecso("always", caption=PLAIN_CAPTION_PROMPT), {"check": "always"}
        )
    return Defence(with_tools(target.chat), ecso, {"check": "self", "caption": QUERY_CAPTION_PROMPT})


CAPTION_ARMS = (
    Arm(
        ArmCard(
            "ecso",
            "ECSO (arXiv 2403.09572)",
            "answer; self check; query-aware caption; answer without the picture",
            "primary",
            "Steps by its README, wording ours. The testbed cannot check an answer in words: there every answer beside a picture "
            "is taken for unsafe, which is ECSO at its safest and costs it the picture questions.",
        ),
        _ecso,
    ),
)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON would give them back."""
    plain: dict[str, Any] = json.loads(json.dumps(options))
    return plain
