"""What was seen lately, bounded by size."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

Value = TypeVar("Value")

_OVERHEAD = 100
"""What an entry weighs by itself, so that a million empty values are too many as well."""


class Recent(Generic[Value]):
    """A thread-safe mapping that forgets what was used longest ago once its values weigh more than a limit."""

    def __init__(self, most: int) -> None:
        """Start empty; `most` is in the unit of `put`'s `size`."""
        self._most = most
        self._weight = 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Value | None:
        """Return what is kept under a key, and keep it longer."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of some size; one larger than the limit is not kept."""
        with self._lock:
            size += _OVERHEAD
            self._weight -= self._kept.pop(key, (value, 0))[1]
            self._kept[key] = (value, size)
            self._weight += size
            while self._weight > self._most:
                self._weight -= self._kept.popitem(last=False)[1][1]
