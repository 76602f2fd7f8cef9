"""How many judge calls are made at the same time: counted for a whole step of a run, whose tool calls are guarded one by one."""

from __future__ import annotations

import asyncio
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from langchain_core.runnables.config import ensure_config

if TYPE_CHECKING:
    from collections.abc import MutableMapping

MOST_AT_ONCE = 8
"""Judge calls at the same time, unless a guard says otherwise."""

_THREADS: MutableMapping[object, BoundedSemaphore] = WeakValueDictionary()
_TASKS: MutableMapping[object, asyncio.Semaphore] = WeakValueDictionary()
_LOCK = Lock()


def thread_slots(most: int) -> BoundedSemaphore:
    """Return the slots of the step around this call, for threads."""
    step = _step()
    if step is None:
        return BoundedSemaphore(most)
    with _LOCK:
        found = _THREADS.get((step, most))
        if found is None:
            found = _THREADS[(step, most)] = BoundedSemaphore(most)
        return found


def task_slots(most: int) -> asyncio.Semaphore:
    """Return the slots of the step around this call, for tasks of the running event loop."""
    step = _step()
    if step is None:
        return asyncio.Semaphore(most)
    key = (id(asyncio.get_running_loop()), step, most)
    found = _TASKS.get(key)
    if found is None:
        found = _TASKS[key] = asyncio.Semaphore(most)
    return found


def _step() -> str | None:
    """Return what names the step of the graph run around this call: the checkpoint that it began from."""
    runtime = ensure_config().get("configurable", {}).get("__pregel_runtime")
    return getattr(getattr(runtime, "execution_info", None), "checkpoint_id", None)
