"""What a white-box attack minimises: the loss of a complying answer under a defence, the defence's gate included.

The defence is run as it runs in generation, but with gradients: the clean prefill that gates read, the strength they give, and
the edit at the last prompt token (and at the answer's tokens, where the defence edits decode steps too). A rewriter on the same
weights is attacked with them: the loss of the report by which it would let the prompt go on unchanged is added.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from langchain_vlmguard.steering.architectures import image_token_id, layer_output, locate_decoder, replace_layer_output
from langchain_vlmguard.steering.attachment import hooked
from langchain_vlmguard.steering.screening import Screening
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.steering.turn_states import TurnStates
from vlmguard_lab.evaluation.arms.hooks import PeerSteering
from vlmguard_lab.evaluation.arms.peers import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from langchain_vlmguard.rewriting.adapter import RewriterAdapter
    from langchain_vlmguard.steering.attachment import Attachment, Hook
    from langchain_vlmguard.steering.gates import ClassStats

    Edit = Callable[[Tensor, int], Tensor]

_IGNORED = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts, left-padded, and the answers an attacker wants, right-padded."""

    inputs: dict[str, Tensor]
    """The encoded prompts; entries that the attack varies require gradients."""

    answers: Tensor
    """`(rows, tokens)` int64, padded with -100."""

    pictured: Tensor
    """`(rows,)` bool."""

    text_inputs: dict[str, Tensor] | None = None
    """The prompts without their pictures, for defences that read them."""

    admitted: Tensor | None = None
    """What the rewriter would write if it let the prompts go on unchanged, as `answers`; `None` where there is no rewriter."""


@dataclass(frozen=True, eq=False)
class Loss:
    """The attack's loss of each row, `(rows,)`; what an attacker minimises is their sum."""

    answer: Tensor
    """Mean cross-entropy of the wanted answer."""

    gate: Tensor
    """How far the gate is open, in spreads beyond its threshold (a probe: in log-odds); 0 where it is closed or there is none."""

    said: Tensor
    """Whether the defended model would say the wanted answer, token by token, `(rows,)` bool."""

    rewriter: Tensor | None = None
    """Mean cross-entropy of the report that lets the prompt go on, `None` without a rewriter."""

    @property
    def total(self) -> Tensor:
        """Answer, gate and rewriter, equally weighted."""
        return self.answer + self.gate if self.rewriter is None else self.answer + self.gate + self.rewriter


def attack_loss(
    model: PreTrainedModel,
    batch: Batch,
    defence: Attachment | None = None,
    *,
    refuse_at: float | None = None,
    adapter: RewriterAdapter | None = None,
) -> Loss:
    """Return the loss of the wanted answers under a defence, with gradients.

    Args:
        model: The model, in eval mode.
        batch: Prompts and wanted answers.
        defence: What the attacker knows to be in place.
        refuse_at: Gate risk from which the guard withholds the answer (see `GuardPolicy.on_gate`), if it does.
        adapter: The rewriter's adapter on these weights, attacked too; needs `batch.admitted`.

    Raises:
        TypeError: The defence is of a kind that cannot be differentiated here.
    """
    loss = _defended_loss(model, batch, defence, refuse_at)
    if adapter is None or batch.admitted is None:
        return loss
    with adapter.attach(model, pictured=batch.pictured):
        report, _ = _answer_loss(model, replace(batch, answers=batch.admitted), None)
    return replace(loss, rewriter=report)


def _defended_loss(model: PreTrainedModel, batch: Batch, defence: Attachment | None, refuse_at: float | None) -> Loss:
    if defence is None:
        answer, said = _answer_loss(model, batch, None)
        return Loss(answer, torch.zeros_like(answer), said)
    if isinstance(defence, PeerSteering):
        return _peer_loss(model, batch, defence)
    if isinstance(defence, Steering):
        return _steered_loss(model, batch, defence, refuse_at)
    if isinstance(defence, Screening):
        return _screened_loss(model, batch, defence)
    msg = (
        f"no gradients through a {type(defence).__name__}: give a Steering, a PeerSteering or a Screening with a probe"
    )
    raise TypeError(msg)


def _steered_loss(model: PreTrainedModel, batch: Batch, steering: Steering, refuse_at: float | None) -> Loss:
    layers = tuple(sorted({*steering.layers, steering.read_layer}))
    clean = _states(model, batch.inputs, layers)
    queries = _states(model, batch.text_inputs, layers) if steering.needs_text_query and batch.text_inputs else clean
    pictured = batch.pictured
    strength, gate = _gate(steering, clean[steering.read_layer], queries[steering.read_layer], pictured, refuse_at)
    prompt = batch.inputs["attention_mask"].shape[1]

    def edit(hidden: Tensor, layer: int) -> Tensor:
        last = hidden.shape[1] if steering.decode else prompt
        tokens = hidden[:, prompt - 1 : last]
        repeats = tokens.shape[1]
        reference = None
        if steering.intervention.needs_text_query:
            reference = (queries[layer] @ steering.directions.vectors[layer].T).repeat_interleave(repeats, 0)
        layer_edit = steering.layer_edit(
            layer, strength.repeat_interleave(repeats), pictured.repeat_interleave(repeats), reference
        )
        edited = steering.intervention.edit(tokens.flatten(0, 1).float(), layer_edit)
        return torch.cat((hidden[:, : prompt - 1], edited.view_as(tokens), hidden[:, last:]), dim=1)

    answer, said = _answer_loss(model, batch, (steering.layers, edit))
    return Loss(answer, gate, said)


def _gate(
    steering: Steering, full: Tensor, query: Tensor, pictured: Tensor, refuse_at: float | None
) -> tuple[Tensor, Tensor]:
    """Return each row's strength and openness; the wider of both readings if the gate takes two.

    Both readings are taken by themselves: one may give the higher strength and the other the higher openness.
    """
    text, shown = steering.directions.text[steering.read_layer], steering.directions.picture[steering.read_layer]
    reads = steering.reads if pictured.any() else "input"
    strengths, openness = [], []
    if reads != "query":
        reading = steering.read_gate(pictured, full)
        strengths.append(reading.strength)
        beside, alone = (_beyond(steering, reading.score, stats, refuse_at) for stats in (shown, text))
        openness.append(torch.where(pictured, beside, alone))
    if reads != "input":
        reading = steering.read_gate(pictured, None, query)
        strengths.append(reading.strength)
        openness.append(_beyond(steering, reading.score, text, refuse_at))
    return torch.stack(strengths).amax(0), torch.stack(openness).amax(0)


def _beyond(steering: Steering, coordinate: Tensor, stats: ClassStats, refuse_at: float | None) -> Tensor:
    """Return how far coordinates lie beyond the gate's threshold, and beyond the guard's own if it refuses by the gate."""
    threshold = steering.gate.threshold(stats)
    openness = ((coordinate - threshold) / stats.spread[0]).relu()
    if not torch.isfinite(threshold):
        openness = torch.zeros_like(coordinate)
    if refuse_at is not None:
        bound = torch.logit(torch.tensor(refuse_at)) * stats.spread[0] / stats.separability[0] + stats.midpoint[0]
        openness = openness + ((coordinate - bound) / stats.spread[0]).relu()
    return openness


def _screened_loss(model: PreTrainedModel, batch: Batch, screening: Screening) -> Loss:
    """Attack the way around rewriter and steering: the probe clears the turn, and the plain model answers it."""
    pictured, probe = bool(batch.pictured.any()), screening.probe
    head = screening.head(pictured=pictured)
    if probe is None or head is None:
        msg = "no gradients through a screening without a probe for these rows: attack its steering instead"
        raise TypeError(msg)
    ids = batch.inputs.get("input_ids", batch.inputs["attention_mask"])
    states = TurnStates(
        probe.card.layers, {**batch.inputs, "input_ids": ids}, image_token_id(model) if pictured else None
    )
    _run_watched(model, batch.inputs, states.layers, states.see)
    answer, said = _answer_loss(model, batch, None)
    beyond = (head.score(states.features(pictured=pictured)) - head.threshold).relu()
    return Loss(answer, beyond.to(answer.device), said)


def _peer_loss(model: PreTrainedModel, batch: Batch, peer: PeerSteering) -> Loss:
    clean = _states(model, batch.inputs, peer.layers)
    queries = _states(model, batch.text_inputs, peer.layers) if peer.needs_text_query and batch.text_inputs else {}
    prompt = batch.inputs["attention_mask"].shape[1]

    def edit(hidden: Tensor, layer: int) -> Tensor:
        first = 0 if peer.edit.positions == "all" else prompt - 1
        last = hidden.shape[1] if peer.edit.decode else prompt
        seen = Seen(clean[layer], batch.pictured, queries.get(layer))
        edited = peer.edit.edit(hidden[:, first:last].float(), layer, seen)
        return torch.cat((hidden[:, :first], edited, hidden[:, last:]), dim=1)

    answer, said = _answer_loss(model, batch, (peer.layers, edit))
    return Loss(answer, torch.zeros_like(answer), said)


def _answer_loss(
    model: PreTrainedModel, batch: Batch, steered: tuple[Sequence[int], Edit] | None
) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of each row's answer, teacher-forced, and whether each of its tokens is the likeliest."""
    shown = batch.answers.clamp(min=0)
    whole = _with_answers(model, batch.inputs, shown, (batch.answers != _IGNORED).long())
    with _edited(model, steered):
        logits = model(**whole, use_cache=False).logits
    predicted = logits[:, -shown.shape[1] - 1 : -1].float()
    losses = cross_entropy(predicted.transpose(1, 2), batch.answers, ignore_index=_IGNORED, reduction="none")
    wanted = batch.answers != _IGNORED
    said = ((predicted.argmax(-1) == batch.answers) | ~wanted).all(1)
    return losses.sum(1) / wanted.sum(1), said


def _with_answers(model: PreTrainedModel, inputs: dict[str, Tensor], shown: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return the inputs with answers behind the prompts and positions that padding does not move."""
    whole = dict(inputs)
    attention = torch.cat((inputs["attention_mask"], mask), dim=1)
    whole["attention_mask"] = attention
    whole["position_ids"] = (attention.cumsum(-1) - 1).clamp(min=0)
    if "inputs_embeds" in inputs:
        whole["inputs_embeds"] = torch.cat((inputs["inputs_embeds"], model.get_input_embeddings()(shown)), dim=1)
    else:
        whole["input_ids"] = torch.cat((inputs["input_ids"], shown), dim=1)
    return whole


def _states(model: PreTrainedModel, inputs: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return each layer's state at the last prompt token, with gradients."""
    states: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> None:
        states[layer] = hidden[:, -1].float()

    _run_watched(model, inputs, layers, keep)
    return states


def _run_watched(
    model: PreTrainedModel, inputs: dict[str, Tensor], layers: Sequence[int], see: Callable[[int, Tensor], None]
) -> None:
    """Run the prompts with gradients and show the output of some layers."""

    def watch(layer: int) -> Hook:
        def hook(_module: object, _inputs: object, output: object) -> None:
            see(layer, layer_output(output))

        return hook

    decoder = locate_decoder(model)
    mask = inputs["attention_mask"]
    with hooked((decoder.layers[layer], watch(layer)) for layer in layers):
        model(**inputs, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), use_cache=False)


@contextmanager
def _edited(model: PreTrainedModel, steered: tuple[Sequence[int], Edit] | None) -> Iterator[None]:
    layers, edit = steered or ((), lambda hidden, _: hidden)

    def at(layer: int) -> Hook:
        def hook(_module: object, _inputs: object, output: object) -> object:
            return replace_layer_output(output, edit(layer_output(output), layer))

        return hook

    decoder = locate_decoder(model)
    with hooked((decoder.layers[layer], at(layer)) for layer in layers):
        yield
