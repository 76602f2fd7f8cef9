"""How much a picture may cost: a part of the policy, and the very object that the reader takes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Frames = Literal["refuse", "first", "all"]


class ImageLimits(BaseModel):
    """How much a picture may cost, and what of it is read.

    ??? example "Small pictures, every frame of them"

        ```python
        limits = ImageLimits(max_bytes=1_000_000, frames="all")
        check_frames(data, limits)
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=10_000_000, gt=0)
    max_pixels: int = Field(default=40_000_000, gt=0)
    """Width times height, of all frames together if all are read."""

    max_ratio: float = Field(default=100.0, ge=1)
    """Longer edge over shorter one."""

    max_frames: int = Field(default=16, ge=1)
    frames: Frames = "refuse"
    """Of an animated picture: nothing, the first frame, or each frame as a picture of its own. A model gets what was read."""

    heif: bool = False
    """Read HEIC and AVIF too (extra `heif`)."""

    isolate: bool = False
    """Decode in a process of its own, which costs some tenths of a second for each new picture."""

    seconds: float = Field(default=20.0, gt=0)
    """Most seconds that this process may take."""

    max_memory: int = Field(default=2_000_000_000, gt=0)
    """Most bytes that this process may take."""
