"""The projector, and its start: what it says of a picture is pulled towards the words for what the picture shows.

Like CLIP's own training, with the language model's table of words in the place of a text tower. It costs minutes, because the
language model is not run, and leaves the language model little to learn: what it is given already lies near the right words.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

BATCH, PATCHES = 192, 4
"""Pictures in a step, and patches taken of each by lot."""

_SHARPNESS = 32.0
_PEAK, _DECAY = 1e-3, 1.0
_DROPPED, NOISE = 0.5, 1.0
"""Share of the inner units that are dropped, and how far a picture is moved, in standard deviations of whole pictures: without
both the projector says of a thing that it never saw the name of one that it did."""


class Projector(nn.Module):
    """`LlavaMultiModalProjector`: two layers with a GELU between."""

    def __init__(self, seen: int, hidden: int) -> None:
        """Draw the weights by lot."""
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(seen, hidden), nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Return what stands in for the picture's tokens."""
        return self.told(functional.gelu(self.linear_1(features)))

    def told(self, inner: Tensor) -> Tensor:
        """Return what the second layer makes of the first one's units."""
        said: Tensor = self.linear_2(inner)
        return said

    def state(self) -> dict[str, Tensor]:
        """Return the weights by LLaVA's names."""
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}


def name_targets(embeddings: Tensor, names: Sequence[Sequence[int]]) -> Tensor:
    """Return for each name the mean of its tokens' rows in the table of words, `(names, hidden)`."""
    return torch.stack([embeddings[list(tokens)].float().mean(dim=0) for tokens in names])


def whole_spread(features: Tensor) -> Tensor:
    """Return the standard deviation of pictures' mean features over pictures, `(width,)`."""
    return torch.stack([picture.float().mean(dim=0) for picture in features]).std(dim=0)


def start_projector(
    features: Tensor,
    shown: Tensor,
    targets: Tensor,
    *,
    steps: int,
    seed: int,
    on_step: Callable[[float], None] = lambda _: None,
) -> Projector:
    """Train a new projector until it says the names of pictures.

    Args:
        features: What the tower sees, `(pictures, patches, width)`.
        shown: Index of what each picture shows, `(pictures,)`.
        targets: Where each name lies, `(names, hidden)`.
        steps: Steps of `BATCH` pictures.
        seed: Of weights and samples.
        on_step: Called with the loss after each step.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    centre = targets.mean(dim=0)
    scale = (targets - centre).norm(dim=-1).mean()
    directions = functional.normalize(targets - centre, dim=-1)
    projector = Projector(features.shape[-1], targets.shape[-1])
    flat = features[:: max(1, len(features) // 512)].float().flatten(0, 1)
    mean, spread = flat.mean(dim=0), flat.std(dim=0).clamp_min(1e-3)
    whole = whole_spread(features)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=_PEAK, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK, total_steps=steps, pct_start=0.1)
    taken = min(PATCHES, features.shape[1])
    for _ in range(steps):
        rows = torch.tensor(rng.sample(range(len(features)), min(BATCH, len(features))))
        patches = torch.tensor([rng.sample(range(features.shape[1]), taken) for _ in rows])
        sample = (features[rows[:, None], patches].float() - mean) / spread
        moved = sample + NOISE * whole / spread * torch.randn(len(rows), 1, features.shape[-1])
        said = projector.told(functional.dropout(functional.gelu(projector.linear_1(moved)), _DROPPED))
        wanted = shown[rows]
        pooled = said.mean(dim=1)
        likeness = functional.normalize(pooled, dim=-1) @ directions.T
        alone = functional.normalize(said, dim=-1) @ directions.T
        distance = (pooled * scale - (targets - centre)[wanted]).square().sum(-1).mean() / scale.square()
        loss = (
            functional.cross_entropy(_SHARPNESS * likeness, wanted)
            + 0.3 * functional.cross_entropy(_SHARPNESS * alone.flatten(0, 1), wanted.repeat_interleave(taken))
            + 0.5 * distance
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        on_step(loss.item())
    return _undo_scaling(projector, mean, spread, centre, scale)


def _undo_scaling(projector: Projector, mean: Tensor, spread: Tensor, centre: Tensor, scale: Tensor) -> Projector:
    """Write the standardised features and the centred, scaled targets into the weights themselves."""
    with torch.no_grad():
        projector.linear_1.weight /= spread
        projector.linear_1.bias.sub_(projector.linear_1.weight @ mean)
        projector.linear_2.weight *= scale
        projector.linear_2.bias.copy_(projector.linear_2.bias * scale + centre)
    return projector
