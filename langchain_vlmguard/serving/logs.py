"""Logs as JSON lines, in which nothing stands that a person, a model or a tool wrote.

Errors are told by their class and by where they were raised: their words may quote what was judged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TextIO

LOGGER = "langchain_vlmguard.serving"
_FRAMES = 12
_OURS = (LOGGER, "uvicorn")
"""Loggers whose messages hold nothing that a caller wrote; of others only name and level are told."""


class ContentFreeFormatter(logging.Formatter):
    """Writes a record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        facts = getattr(record, "facts", None)
        if isinstance(facts, dict):
            line.update(facts)
        elif record.name.startswith(_OURS) and record.exc_info is None:
            line["said"] = record.getMessage()
        line["logger"] = record.name
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["at"] = _frames(record.exc_info[2])
        return json.dumps(line)


def log_facts(said: str, **facts: object) -> None:
    """Log what happened, in words and numbers of ours."""
    kept = {key: value for key, value in facts.items() if value is not None}
    logging.getLogger(LOGGER).info(said, extra={"facts": {"said": said, **kept}})


def log_error(said: str, error: BaseException) -> None:
    """Log an error by its class and place."""
    facts = {"said": said, "error": type(error).__name__, "at": _frames(error.__traceback__)}
    logging.getLogger(LOGGER).error(said, extra={"facts": facts})


def set_up_logs(stream: TextIO | None = None) -> None:
    """Send all logs of this process to a stream as such lines, to stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(ContentFreeFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def _frames(trace: TracebackType | None) -> list[str]:
    """Return where an error was raised: files and lines, without any words."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}:{frame.name}" for frame in frames]
