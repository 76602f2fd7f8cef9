"""Server-sent events: an incremental parser by the standard, and the plainest way of writing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_vlmguard.serving.http_errors import as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}

_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"


class StreamFormatError(ValueError):
    """An event stream that is no event stream."""


def data_event(value: object) -> bytes:
    """Return a JSON value as an event: a single `data:` line."""
    return b"data: " + as_json(value) + b"\n\n"


@dataclass(frozen=True)
class Event:
    """An event that came whole."""

    data: str
    kind: str = "message"


@dataclass
class EventParser:
    """Takes bytes as they come, however they were cut, and gives whole events.

    Lines end in CR, LF or both; several `data:` lines are one text; comments, `id:` and `retry:` are read over; an event that the
    stream does not finish is none. Text is decoded only when its event is whole.
    """

    most: int = 4_000_000
    """Bytes of one event."""

    _line: bytearray = field(default_factory=bytearray)
    _data: list[bytes] = field(default_factory=list)
    _kind: bytes = b""
    _held: int = 0
    _after_cr: bool = False
    _started: bool = False

    @property
    def is_between_events(self) -> bool:
        """Whether nothing of an event is left over."""
        return not self._line and not self._data

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Take bytes and yield the events that they finish.

        Raises:
            StreamFormatError: An event is too large, or is not UTF-8.
        """
        at = 0
        while at < len(piece):
            if self._after_cr:
                self._after_cr = False
                if piece[at] == _LF:
                    at += 1
                    continue
            end = _line_end(piece, at)
            self._add(piece[at : len(piece) if end < 0 else end])
            if end < 0:
                return
            self._after_cr = piece[end] == _CR
            at = end + 1
            yield from self._end_line()

    def _add(self, piece: bytes) -> None:
        self._line += piece
        self._held += len(piece)
        if self._held > self.most:
            msg = f"an event is larger than {self.most:,} bytes"
            raise StreamFormatError(msg)

    def _end_line(self) -> Iterator[Event]:
        line = bytes(self._line)
        self._line.clear()
        if not self._started:
            self._started = True
            line = line.removeprefix(_BOM)
        if not line:
            data, kind = self._data, self._kind
            self._data, self._kind, self._held = [], b"", 0
            if data:
                yield Event(_text(b"\n".join(data)), _text(kind) or "message")
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value
        elif not self._data:
            self._held = 0  # comments alone never add up to an event that is too large


def _line_end(piece: bytes, at: int) -> int:
    feed, back = piece.find(b"\n", at), piece.find(b"\r", at)
    return max(feed, back) if feed < 0 or back < 0 else min(feed, back)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = "an event is not UTF-8"
        raise StreamFormatError(msg) from error
