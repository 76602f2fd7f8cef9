"""A cache that is bounded by the size of what it holds."""

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
    """A thread-safe mapping that forgets what was used longest ago once its values weigh more than a limit.

    Sizes are in whatever unit the caller counts in, usually bytes.

    ??? example "Ten kilobytes"

        ```python
        recent = Recent[str](10_000)
        recent.put("key", "value", size=5)
        recent.get("key")
        ```
    """

    def __init__(self, most: int) -> None:
        """Start empty, with room for `most`."""
        self.most = most
        self._weight = 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    @property
    def weight(self) -> int:
        """What all entries weigh."""
        return self._weight

    def __contains__(self, key: Hashable) -> bool:
        """Whether something is kept under a key; asking does not keep it longer."""
        with self._lock:
            return key in self._kept

    def get(self, key: Hashable) -> Value | None:
        """Return what is kept under a key, and keep it longer."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of some size; one that is larger than the limit is not kept, and pushes nothing out."""
        size += _OVERHEAD
        with self._lock:
            self._weight -= self._kept.pop(key, (value, 0))[1]
            if size > self.most:
                return
            self._kept[key] = (value, size)
            self._weight += size
            while self._weight > self.most:
                self._weight -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._weight = 0
