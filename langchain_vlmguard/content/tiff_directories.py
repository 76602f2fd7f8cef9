"""Directories of TIFF files and of EXIF, which is written like one: counted and measured before anything reads them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ENTRIES = 1_000
"""Of one directory; files that people make have fewer than a hundred."""

MOST_ENTRIES_IN_ALL = 50_000
MOST_PAGES = 5_000
"""Of one file."""

MOST_STRIPS = 65_536
"""Strips or tiles of one page."""

_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by type."""

_SHORT, _LONG, _LONG8 = 3, 4, 16
_BIG = 43
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_SUB_DIRECTORIES = frozenset({0x8769, 0x8825, 0xA005})
"""EXIF, GPS and interoperability: directories that are read with the one that names them."""

_DEEPEST = 3


@dataclass(frozen=True)
class _Entry:
    """A field of a directory, and where its values stand."""

    tag: int
    kind: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Bytes that it claims for its values."""
        return self.count * _WIDTHS.get(self.kind, 1)


class Directories:
    """The directories of one TIFF structure, read with nothing but their counts believed.

    ??? example "A file of one page"

        ```python
        Directories(data, "TIFF").check(pages=1)  # 1
        ```
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Take a structure that begins with its byte order.

        Args:
            data: The structure.
            name: What errors call it, "TIFF" or "EXIF".
        """
        self.data = data
        self.name = name
        self._order = ">" if data[:2] == b"MM" else "<"
        self._big = len(data) > 4 and _BIG in (data[2], data[3])  # noqa: PLR2004 - the mark's two bytes, in either order
        self._claimed = 0
        self._counted = 0

    def check(self, pages: int) -> int:
        """Measure the first pages with what hangs on them, and count all; broken ones are left to the decoder.

        Args:
            pages: How many are going to be read.

        Returns:
            How many there are.

        Raises:
            UnreadableContentError: They hold more than such a file can honestly hold.
        """
        seen: set[int] = set()
        try:
            at = self._number(8, 8) if self._big else self._number(4, 4)
            while at and at not in seen and at + 2 <= len(self.data):
                seen.add(at)
                if len(seen) > MOST_PAGES:
                    self._refuse(f"more than {MOST_PAGES:,} pages")
                if len(seen) <= pages:
                    self._measure(at, _DEEPEST)
                at = self._next(at)
        except struct.error:
            pass
        return len(seen)

    def _measure(self, at: int, depth: int) -> None:
        for entry in self._entries(at):
            left = max(0, len(self.data) - entry.at)
            self._claim(min(entry.size, left))
            if entry.tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and entry.count > MOST_STRIPS:
                self._refuse(f"a page in more than {MOST_STRIPS:,} pieces")
            if entry.tag in (_STRIP_BYTES, _TILE_BYTES):
                self._claim(sum(min(size, len(self.data)) for size in self._values(entry)))
            if entry.tag in _SUB_DIRECTORIES and depth:
                self._measure(next(self._values(entry), len(self.data)), depth - 1)

    def _claim(self, size: int) -> None:
        """Add to what is going to be read: entries that share bytes make a small file cost gigabytes."""
        self._claimed += size
        if self._claimed > 4 * len(self.data):
            self._refuse("fields that claim the same bytes again and again")

    def _entries(self, at: int) -> Iterator[_Entry]:
        width, head = (20, 8) if self._big else (12, 2)
        count = self._number(at, head) if at + head <= len(self.data) else 0
        if count > MOST_ENTRIES:
            self._refuse(f"a directory of {count:,} fields")
        self._counted += count
        if self._counted > MOST_ENTRIES_IN_ALL:
            self._refuse(f"more than {MOST_ENTRIES_IN_ALL:,} fields")
        for start in range(at + head, at + head + count * width, width):
            tag, kind = self._number(start, 2), self._number(start + 2, 2)
            values = self._number(start + 4, 8) if self._big else self._number(start + 4, 4)
            inline, field = (8, start + 12) if self._big else (4, start + 8)
            stands = values * _WIDTHS.get(kind, 1) <= inline
            yield _Entry(tag, kind, values, field if stands else self._number(field, inline))

    def _values(self, entry: _Entry) -> Iterator[int]:
        width = _WIDTHS.get(entry.kind, 1)
        known = entry.kind in (_SHORT, _LONG, _LONG8, 13, 18)
        for start in range(entry.at, entry.at + width * min(entry.count, MOST_STRIPS) if known else entry.at, width):
            if start + width > len(self.data):
                return
            yield self._number(start, width)

    def _next(self, at: int) -> int:
        width, head, size = (20, 8, 8) if self._big else (12, 2, 4)
        return self._number(at + head + self._number(at, head) * width, size)

    def _number(self, at: int, size: int) -> int:
        number: int = struct.unpack_from(self._order + {2: "H", 4: "I", 8: "Q"}[size], self.data, at)[0]
        return number

    def _refuse(self, what: str) -> None:
        msg = f"the picture's {self.name} has {what}, which no honest file has"
        raise UnreadableContentError(msg)


def check_exif(exif: bytes) -> None:
    """Measure EXIF as it stands in a file, with or without its own mark in front.

    Raises:
        UnreadableContentError: It holds more than EXIF can honestly hold.
    """
    while exif.startswith(b"Exif\x00\x00"):
        exif = exif[6:]
    Directories(exif, "EXIF").check(pages=2)
