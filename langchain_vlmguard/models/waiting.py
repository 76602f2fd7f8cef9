"""The scheduler's queue: bounded, and fair between clients."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from langchain_vlmguard.models.requests import Request


class Waiting:
    """Requests that wait. Clients take turns; each client's own requests keep their order."""

    def __init__(self, limit: int) -> None:
        """Hold at most `limit` requests."""
        self.limit = limit
        self._queues: OrderedDict[Hashable, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many requests wait."""
        return sum(map(len, self._queues.values()))

    def add(self, requests: Iterable[Request], *, bounded: bool = True) -> None:
        """Append requests, all of them or none.

        Raises:
            BusyError: The queue is full.
        """
        requests = list(requests)
        if bounded and len(self) + len(requests) > self.limit:
            msg = (
                f"{len(self)} requests wait already (the limit is {self.limit}): try again later, or raise max_waiting"
            )
            raise BusyError(msg)
        for request in requests:
            self._queues.setdefault(request.client, deque()).append(request)

    def drop(self) -> None:
        """Drop requests whose callers have left or whose time is up."""
        self._keep(lambda request: not request.expire())

    def take(self, running: int) -> list[Request]:
        """Take requests of the kind that is next in turn, one of each client in turn.

        No more are taken than may run together, beside `running` rows, by the batch size of the first.
        """
        taken: list[Request] = []
        while ready := [name for name, queue in self._queues.items() if not taken or queue[0].kind == taken[0].kind]:
            client = ready[0]
            first = taken[0] if taken else self._queues[client][0]
            if running + len(taken) >= first.batch_size:
                break
            taken.append(self._queues[client].popleft())
            self._queues.move_to_end(client)
            if not self._queues[client]:
                del self._queues[client]
        return taken

    def clear(self) -> list[Request]:
        """Take everything."""
        everything = [request for queue in self._queues.values() for request in queue]
        self._queues.clear()
        return everything

    def _keep(self, wanted: Callable[[Request], bool]) -> None:
        for client, queue in list(self._queues.items()):
            kept = deque(request for request in queue if wanted(request))
            if kept:
                self._queues[client] = kept
            else:
                del self._queues[client]
