"""What is measured of the reference model, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmguard_lab.reference.families.base import Sources

if TYPE_CHECKING:
    from pathlib import Path

OURS = ("none", "steering", "gate_refuses")
PEERS = ("self_reminder", "adashield_s", "ecso", "cmrm", "shiftdc", "inferaligner", "nullsteer")
FAMILIES = (
    "typed",
    "beside",
    "wrapped",
    "wrapped_beside",
    "harmless",
    "harmless_shown",
    "shown",
    "together",
    "drawn",
    "agent",
)
"""In the order in which they are measured."""


@dataclass(frozen=True)
class Counts:
    """How many requests of each kind are put to each arm."""

    ours: int = 100
    """Harmful requests of a family, and harmless ones, for the plain model and for steering."""

    peers: int = 40
    pictures: int = 200
    """Picture questions of each measure."""

    states: int = 100
    """Requests of either class whose hidden states are read."""

    pairs: int = 24
    """Timed pairs of a defence and the plain model."""

    labels: int = 77
    """Labelled answers of either kind that the model judge reads."""


WHOLE = Counts()
QUICK = Counts(ours=16, peers=4, pictures=100, states=24, pairs=4, labels=24)
"""For a first look."""


@dataclass(frozen=True)
class Measurement:
    """What is measured."""

    checkpoint: Path
    """The reference model's folder."""

    public: Path
    """Folder of public sets."""

    pictures: Path
    """Folder of labelled pictures, as `python -m vlmguard_lab.reference pictures` fills it."""

    work: Path
    """Finished parts."""

    judge: Path | None = None
    """Checkpoint folder of the model that judges harm, untouched by training; no model judges if there is none."""

    arms: tuple[str, ...] = (*OURS, *PEERS)
    families: tuple[str, ...] = FAMILIES
    counts: Counts = WHOLE
    tokens: int = 32
    """Most tokens of an answer."""

    @property
    def sources(self) -> Sources:
        """Where requests and pictures come from."""
        return Sources(self.public, self.pictures)

    def limit(self, arm: str) -> int:
        """Return how many harmful requests of a family an arm is asked, and how many harmless ones."""
        return self.counts.ours if arm in OURS else self.counts.peers

    @property
    def settings(self) -> dict[str, Any]:
        """What the results depend on; arms and families may be added."""
        return {"checkpoint": str(self.checkpoint), "counts": vars(self.counts), "tokens": self.tokens}
