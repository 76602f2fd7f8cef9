"""Fit what a gate reads: where, by which weights, and from which score on, all by anchors that the weights did not see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from langchain_vlmguard.steering.gate_head import Frame, GateHead, HeadPlace
from langchain_vlmguard.steering.gates import ClassStats
from langchain_vlmguard.steering.logistic import Logistic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from langchain_vlmguard.steering.anchors import AnchorSet

PENALTIES = (0.03, 0.1, 0.3)
"""Weights of the squared norm that are tried."""

_LAST, _MEAN = (0.65, 0.75, 0.8, 0.85), (0.45, 0.6)
"""Depths that are tried for the last token's state and for the mean of the request, as shares of the decoder."""

_PENALTY, _FOLDS = 0.1, 5
EDGY = "edgy"


@dataclass(frozen=True, eq=False)
class RequestAnchors:
    """What anchors look like when each stands alone; every tensor is `(pairs, layers, hidden)` float32."""

    harmful: Tensor
    harmless: Tensor
    harmful_mean: Tensor
    """Mean of the request's own tokens."""

    harmless_mean: Tensor
    edgy: Tensor
    """Which harmless ones sound dangerous, `(pairs,)` bool; all where no pair says so."""

    def features(self, last: int, mean: int) -> Tensor:
        """Return `(2 · pairs, 2 · hidden)`, harmful ones first."""
        harmful = torch.cat((self.harmful[:, last], self.harmful_mean[:, mean]), dim=1)
        return torch.cat((harmful, torch.cat((self.harmless[:, last], self.harmless_mean[:, mean]), dim=1)))


def edgy_of(anchors: AnchorSet) -> Tensor:
    """Return which pairs' harmless requests sound dangerous, `(pairs,)` bool; all of them where no pair has that form."""
    found = torch.tensor([pair.form == EDGY for pair in anchors.pairs])
    return found if found.any() else torch.ones_like(found)


def fit_head(
    anchors: RequestAnchors,
    frame: Frame,
    *,
    false_alarms: float,
    progress: Callable[[int, int], None] | None = None,
) -> GateHead:
    """Choose layers and penalty by cross-validation, and place the threshold by left-out scores of edgy harmless anchors.

    Args:
        anchors: States of the anchors.
        frame: What the chat template puts around a request.
        false_alarms: Share of edgy harmless requests for which the gate may open.
        progress: Called with how many candidates were tried, and of how many.

    Raises:
        ValueError: There are fewer pairs than folds.
    """
    pairs, depth = anchors.harmful.shape[:2]
    if pairs < _FOLDS:
        msg = f"a gate is fitted in {_FOLDS} parts, so on at least as many pairs, not on {pairs}"
        raise ValueError(msg)
    lasts, means = ([*dict.fromkeys(round(at * (depth - 1)) for at in shares)] for shares in (_LAST, _MEAN))
    tried: dict[tuple[int, int, float], Tensor] = {}
    count = len(lasts) + len(means) + len(PENALTIES)

    def area_of(last: int, mean: int, penalty: float) -> float:
        key = (last, mean, penalty)
        if key not in tried:
            tried[key] = _left_out(anchors.features(last, mean), pairs, penalty)
            if progress:
                progress(len(tried), count)
        return _quality(tried[key], anchors.edgy)

    mean = means[len(means) // 2]
    last = max(lasts, key=lambda one: area_of(one, mean, _PENALTY))
    mean = max(means, key=lambda one: area_of(last, one, _PENALTY))
    penalty = max(PENALTIES, key=lambda one: area_of(last, mean, one))
    scores = tried[last, mean, penalty]
    harmful, harmless = scores[:pairs], scores[pairs:]
    whole = Logistic.fit(anchors.features(last, mean), torch.arange(2 * pairs) < pairs, penalty)
    threshold = threshold_for(harmless[anchors.edgy], false_alarms)
    stats = ClassStats.of(harmful[:, None], harmless[:, None]).placed(threshold)
    kept = {"harmful": harmful, "harmless": harmless, "edgy": harmless[anchors.edgy]}
    placed = replace(whole, threshold=torch.tensor([threshold]))
    return GateHead(HeadPlace(last, mean, frame), placed, stats, {name: one.clone() for name, one in kept.items()})


def threshold_for(harmless: Tensor, false_alarms: float) -> float:
    """Return the lowest score that at most a share of harmless scores `(n,)` lies above."""
    ordered = harmless.sort(descending=True).values
    return float(ordered[min(int(false_alarms * len(ordered)), len(ordered) - 1)])


def _left_out(features: Tensor, pairs: int, penalty: float) -> Tensor:
    """Score each anchor by weights that saw nothing of its pair."""
    fold = torch.arange(pairs) % _FOLDS
    fold, harmful = torch.cat((fold, fold)), torch.arange(2 * pairs) < pairs
    scores = torch.zeros(2 * pairs)
    for one in range(_FOLDS):
        out = fold == one
        scores[out] = Logistic.fit(features[~out], harmful[~out], penalty).score(features[out])
    return scores


def _quality(scores: Tensor, edgy: Tensor) -> float:
    """Return the area under the curve, of all pairs and against edgy harmless ones, both alike."""
    harmful, harmless = scores[: len(edgy)], scores[len(edgy) :]
    return (area(harmful, harmless) + area(harmful, harmless[edgy])) / 2


def area(harmful: Tensor, harmless: Tensor) -> float:
    """Return the area under the ROC curve: how often a harmful score lies above a harmless one, ties counted half."""
    above = (harmful[:, None] > harmless).float() + 0.5 * (harmful[:, None] == harmless).float()
    return float(above.mean())
