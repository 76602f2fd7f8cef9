"""Neutral pictures: meaningless, harmless, and enough to show what a picture does to hidden states."""

from __future__ import annotations

import random

from PIL import Image

SIZE = 336
"""Edge in pixels, that of the common CLIP tower."""


def neutral_pictures(*, noise: int = 4, colours: int = 4, size: int = SIZE, seed: int = 0) -> list[Image.Image]:
    """Return a blank picture, `noise` pictures of uniform noise and `colours` plain ones, RGB, the same for a seed."""
    rng = random.Random(seed)
    shape = (size, size)
    noisy = [Image.frombytes("RGB", shape, rng.randbytes(3 * size * size)) for _ in range(noise)]
    plain = [
        Image.new("RGB", shape, (rng.randrange(256), rng.randrange(256), rng.randrange(256))) for _ in range(colours)
    ]
    return [Image.new("RGB", shape, "white"), *noisy, *plain]
