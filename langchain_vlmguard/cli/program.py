"""How a program of ours starts, and how Ctrl-C ends it at any moment."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

STOPPED = 130
"""Exit code after Ctrl-C."""


def run(module: str) -> None:
    """Import a module and run its `app`; Ctrl-C ends it with one line, even while something is imported.

    Args:
        module: Where the typer program is.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other packages; ours are quiet by themselves
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        import_module(module).app()
    except KeyboardInterrupt:
        _leave()
    except SystemExit as end:
        if end.code == STOPPED:
            _leave()
        raise


@contextmanager
def plain_interrupts() -> Iterator[None]:
    """Give Ctrl-C back to Python: an event loop cancels its work by itself only then."""
    if signal.getsignal(signal.SIGINT) is not _interrupted:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, but not into an import: inside torch's own start it aborts the process."""
    if _imports(frame):
        sys.stderr.write(
            "\x1b[?25hstopped\n" if sys.stderr.isatty() else "stopped\n"
        )  # a bar may have hidden the cursor
        _leave()
    signal.default_int_handler(number, frame)


def _imports(frame: FrameType | None) -> bool:
    """Whether Python is inside an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def _leave() -> NoReturn:
    """End at once, with the processes that were started: threads may wait for a model, and what was finished is on disk."""
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED)
