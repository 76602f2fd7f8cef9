"""What ASTRA is fitted on: anchors beside pictures that were attacked until the plain target complied."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.steering.anchors import load_anchors
from langchain_vlmguard.steering.neutral import neutral_pictures
from vlmguard_lab.evaluation.arms.fitting import fit_astra, states_of
from vlmguard_lab.evaluation.attacks.pictures import PixelBudget, attack_pictures, beside

if TYPE_CHECKING:
    from torch import Tensor

    from vlmguard_lab.evaluation.arms.base import Target
    from vlmguard_lab.evaluation.arms.peers import Astra

ATTACKED, BUDGET = 24, PixelBudget(eps=16, steps=15)
"""How many anchors are attacked, and how hard."""

_STATES: WeakKeyDictionary[Target, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def fit_astra_here(target: Target, alpha: float) -> Astra:
    """Fit ASTRA on pictures attacked on this target.

    The wanted answer of a harmful anchor is what the plain target says to its harmless partner.

    Args:
        target: The target, whose pictures reach the model as `(rows, channels, height, width)`.
        alpha: Strength.
    """
    if target not in _STATES:
        _STATES[target] = _attacked_states(target)
    return fit_astra(target, *_STATES[target], alpha)


def _attacked_states(target: Target) -> tuple[Tensor, Tensor]:
    loaded, pairs = target.weights, (target.anchors or load_anchors()).pairs[:ATTACKED]
    pictures = [neutral_pictures()[index % 9] for index in range(len(pairs))]
    wanted = [str(answer.text) for answer in target.chat.batch([pair.harmless for pair in pairs])]
    rows = [
        to_chat_row([beside(picture, pair.harmful)], loaded.processor)
        for pair, picture in zip(pairs, pictures, strict=True)
    ]
    found = attack_pictures(loaded, rows, wanted, BUDGET)
    texts = [pair.harmful for pair in pairs]
    return states_of(target, texts, found.pictures), states_of(target, texts, found.before)
