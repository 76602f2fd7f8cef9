"""What a chat model's answers are given under: a steering, directions that recommend one, or nothing; and its probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import PrivateAttr, field_validator

from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, named_in
from langchain_vlmguard.models.local_model import LocalModel
from langchain_vlmguard.steering.attachment import Attachment

if TYPE_CHECKING:
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.probe import TurnProbe
    from langchain_vlmguard.steering.screening import Screening
    from langchain_vlmguard.steering.steering import Steering
else:  # pydantic reads the annotations of fields when the class is made, and these would import torch
    SafetyDirections = TurnProbe = Steering = object


class SteeredModel(LocalModel):
    """A local model with a steering, by default the one that its checkpoint recommends."""

    steering: Attachment | Literal["auto"] | None = "auto"
    """A `Steering` (or any other `Attachment`), `None` for the plain model, or `"auto"`: what `directions` recommend, and
    without those the choice that lies with the checkpoint, if any."""

    directions: SafetyDirections | str | Path | None = None
    """Fitted directions, a file of them, or a folder of `vlmguard fit`, whose recommended steering is used."""

    probe: TurnProbe | Literal["auto"] | None = "auto"
    """A `TurnProbe` that clears whole turns in adaptive rewriting, `None`, or `"auto"`: the one that lies with the checkpoint."""

    _recommended: tuple[SafetyDirections | str | Path, Steering] | None = PrivateAttr(default=None)

    @field_validator("steering", mode="before")
    @classmethod
    def _check_steering(cls, given: object) -> object:
        if given is None or given == "auto" or isinstance(given, Attachment):
            return given
        msg = f"steering must be a Steering, 'auto' or None (off), got {given!r}"
        raise ValueError(msg)

    @field_validator("probe", mode="before")
    @classmethod
    def _check_probe(cls, given: object) -> object:
        if given is None or given == "auto":
            return given
        from langchain_vlmguard.steering.probe import TurnProbe

        if isinstance(given, TurnProbe):
            return given
        msg = f"probe must be a TurnProbe, 'auto' or None (off), got {given!r}"
        raise ValueError(msg)

    @field_validator("directions", mode="before")
    @classmethod
    def _check_directions(cls, given: object) -> object:
        if given is None or isinstance(given, str | Path):
            return given
        from langchain_vlmguard.steering.directions import SafetyDirections

        if isinstance(given, SafetyDirections):
            return given
        msg = f"directions must be SafetyDirections or a file of them, got {given!r}"
        raise ValueError(msg)

    @property
    def active_steering(self) -> Attachment | None:
        """What answers are given under, `"auto"` resolved."""
        if self.steering != "auto":
            return self.steering
        return self.loaded.recommended if self.directions is None else self._recommend(self.directions, self.loaded)

    def _recommend(self, directions: SafetyDirections | str | Path, loaded: LoadedVLM) -> Steering:
        """Return the steering that directions recommend; they are checked against the model once."""
        from langchain_vlmguard.steering.directions import SafetyDirections
        from langchain_vlmguard.steering.steering import Steering

        if self._recommended is None or self._recommended[0] is not directions:
            found = SafetyDirections.load(_file_of(directions)) if isinstance(directions, str | Path) else directions
            loaded.check(found)
            self._recommended = (directions, Steering.recommended(found))
        return self._recommended[1]

    @property
    def gated_steering(self) -> Steering | None:
        """The active steering if it has a gate that can be read."""
        if (steering := self.active_steering) is None:
            return None
        from langchain_vlmguard.steering.steering import Steering

        return steering if isinstance(steering, Steering) else None

    @property
    def active_probe(self) -> TurnProbe | None:
        """The probe that is used, `"auto"` resolved."""
        return self.loaded.probe if self.probe == "auto" else self.probe

    @property
    def screening(self) -> Screening | None:
        """What clears turns in adaptive rewriting; `None` without a steering that has a gate."""
        if (steering := self.gated_steering) is None:
            return None
        from langchain_vlmguard.steering.screening import Screening

        return Screening(steering, self.active_probe)

    @property
    def _reads_guard_files(self) -> bool:
        return self.steering is not None or self.probe is not None

    @property
    def can_judge(self) -> bool:
        """Whether there is a steering whose gate can judge texts."""
        return self.gated_steering is not None


def _file_of(path: str | Path) -> Path:
    """Return a file of directions, also where the folder of one is named."""
    path = Path(path).expanduser()
    return named_in(path, DIRECTIONS_FILE) if path.is_dir() else path
