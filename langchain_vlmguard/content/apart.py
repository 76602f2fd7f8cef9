"""Decode strangers' files in processes of their own, whose memory and seconds the operating system bounds."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_vlmguard.content.images import CheckedPicture, decode_frames
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ImageLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_vlmguard.verdict.limits import PdfLimits


class _Picture(TypedDict):
    """A `CheckedPicture` as JSON; bytes are base64."""

    data: str
    mime_type: str
    size: tuple[int, int]
    hidden: list[tuple[str, str]]
    notes: list[tuple[str, str]]


class _Result(TypedDict, total=False):
    """What the process writes: pictures, or why there are none."""

    pictures: list[_Picture]
    error: str


def decode_frames_apart(data: bytes, limits: ImageLimits) -> tuple[CheckedPicture, ...]:
    """Decode a picture in a process of its own; as `images.decode_frames`.

    Args:
        data: The file.
        limits: `seconds` and `max_memory` bound the process. On systems without `resource` (Windows) only the seconds hold.

    Raises:
        UnreadableContentError: As `images.decode_frames`, and when the process went beyond its bounds.
    """
    result = run_apart("langchain_vlmguard.content.apart", limits.model_dump_json(), data, "picture", limits)
    return tuple(map(_read, result["pictures"]))


def run_apart(module: str, asked: str, data: bytes, what: str, limits: ImageLimits | PdfLimits) -> Mapping[str, Any]:
    """Give a file to a module of ours that runs in a process of its own, and return what it writes.

    Args:
        module: Reads one line of JSON and a file from its standard input, and writes a JSON object.
        asked: The line.
        data: The file.
        what: What the file is, for errors.
        limits: `seconds` and `max_memory`, which the module has to keep itself to (`bound`).

    Raises:
        UnreadableContentError: The module says why the file cannot be read, or it went beyond its bounds.
    """
    command = (sys.executable, "-P", "-W", "ignore", "-m", module)
    broken = f"decoding the {what} took more than {limits.max_memory:,} bytes of memory, or broke the decoder"
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, input=asked.encode() + b"\n" + data, capture_output=True, timeout=limits.seconds, check=False
        )
        result: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"error": broken}
    except subprocess.TimeoutExpired as error:
        msg = f"the {what} could not be decoded within {limits.seconds:g} seconds"
        raise UnreadableContentError(msg) from error
    except ValueError as error:
        raise UnreadableContentError(broken) from error
    if "error" in result:
        raise UnreadableContentError(result["error"])
    return result


def _read(picture: _Picture) -> CheckedPicture:
    width, height = picture["size"]
    hidden = tuple((how, base64.b64decode(data)) for how, data in picture["hidden"])
    notes = tuple((where, text) for where, text in picture["notes"])
    return CheckedPicture(base64.b64decode(picture["data"]), picture["mime_type"], (width, height), hidden, notes)


def _written(picture: CheckedPicture) -> _Picture:
    return {
        "data": picture.encoded,
        "mime_type": picture.mime_type,
        "size": picture.size,
        "hidden": [(how, base64.b64encode(data).decode()) for how, data in picture.hidden],
        "notes": list(picture.notes),
    }


def bound(memory: int) -> None:
    """Bound the memory of this process, in bytes, where the operating system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Read limits and a file from the standard input; write pictures, or why there are none, to the standard output."""
    head, _, data = sys.stdin.buffer.read().partition(b"\n")
    limits = ImageLimits.model_validate_json(head)
    bound(limits.max_memory)
    try:
        result: _Result = {"pictures": list(map(_written, decode_frames(data, limits)))}
    except UnreadableContentError as error:
        if isinstance(error.__cause__, MemoryError):  # out of bounds, which the other side words
            raise
        result = {"error": str(error)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
