"""GIF files that cannot outgrow a limit."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from PIL.GifImagePlugin import GifImageFile

if TYPE_CHECKING:
    from collections.abc import Callable


class BoundedGif(GifImageFile):
    """A GIF whose size is checked whenever it changes.

    Pillow grows the canvas around each frame it meets and takes the memory at once, when the file is opened. A file of 300
    bytes gets hundreds of megabytes that way before anyone can look at its size.
    """

    def __init__(self, data: bytes, check: Callable[[tuple[int, int]], None]) -> None:
        """Open a file.

        Args:
            data: The file.
            check: Called with each new `(width, height)`; raises if it is too much.

        Raises:
            SyntaxError: It is no GIF.
        """
        self._check = check
        super().__init__(BytesIO(data))

    def __setattr__(self, name: str, value: object) -> None:
        """Check a new size before it is taken."""
        if name == "_size" and isinstance(value, tuple) and all(value):
            self._check(value)
        super().__setattr__(name, value)
