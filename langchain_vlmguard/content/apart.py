"""Decode pictures in a process of their own, whose memory and seconds the operating system bounds."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.content.images import CheckedPicture, ImageLimits, check_frames
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "langchain_vlmguard.content.apart")


def check_frames_apart(data: bytes, limits: ImageLimits) -> tuple[CheckedPicture, ...]:
    """Check a picture in a process of its own; as `check_frames`.

    Args:
        data: The file.
        limits: `seconds` and `max_memory` bound the process. On systems without `resource` (Windows) only the seconds hold.

    Raises:
        UnreadableContentError: As `check_frames`, and when the process went beyond its bounds.
    """
    asked = json.dumps(asdict(replace(limits, isolate=False))).encode() + b"\n" + data
    try:
        done = subprocess.run(_COMMAND, input=asked, capture_output=True, timeout=limits.seconds, check=False)  # noqa: S603 - our own module
        said: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"error": _ended(limits)}
    except subprocess.TimeoutExpired as error:
        msg = f"the picture could not be decoded within {limits.seconds:g} seconds"
        raise UnreadableContentError(msg) from error
    except ValueError as error:
        raise UnreadableContentError(_ended(limits)) from error
    if "error" in said:
        raise UnreadableContentError(said["error"])
    return tuple(_picture(one) for one in said["pictures"])


def _ended(limits: ImageLimits) -> str:
    return f"decoding the picture took more than {limits.max_memory:,} bytes of memory, or broke the decoder"


def _picture(one: dict[str, Any]) -> CheckedPicture:
    width, height = one["size"]
    hidden = tuple((how, base64.b64decode(data)) for how, data in one["hidden"])
    notes = tuple((where, text) for where, text in one["notes"])
    return CheckedPicture(base64.b64decode(one["data"]), one["mime_type"], (width, height), hidden, notes)


def _written(pictures: Sequence[CheckedPicture]) -> list[dict[str, Any]]:
    return [
        {
            "data": base64.b64encode(picture.data).decode(),
            "mime_type": picture.mime_type,
            "size": picture.size,
            "hidden": [(how, base64.b64encode(data).decode()) for how, data in picture.hidden],
            "notes": picture.notes,
        }
        for picture in pictures
    ]


def _bound(limits: ImageLimits) -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limits.max_memory, limits.max_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Read limits and a file from the standard input; write pictures, or why there are none, to the standard output."""
    head, _, data = sys.stdin.buffer.read().partition(b"\n")
    limits = ImageLimits(**json.loads(head))
    _bound(limits)
    try:
        said: dict[str, Any] = {"pictures": _written(check_frames(data, limits))}
    except UnreadableContentError as error:
        if isinstance(error.__cause__, MemoryError):
            raise
        said = {"error": str(error)}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
