"""Bodies of requests: unpacked bytes are counted while they come, and large ones are read off the event loop."""

from __future__ import annotations

import asyncio
import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

from starlette.requests import ClientDisconnect

from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

    from langchain_vlmguard.verdict.records import Json

T = TypeVar("T")

_DEEPEST = 64
_SMALL = 32_768
"""Bytes of a body that is read in less time than it takes to hand it to a thread and back."""

_SIZE = "vlmguard.body"
_LET_PASS = 1.0
"""Most seconds in which the rest of a body that is too large is read over."""

_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_json(request: Request, *, most: int, seconds: float) -> Json:
    """Read the body of a request as a JSON object.

    Args:
        request: The request.
        most: Bytes that the body may have, unpacked.
        seconds: Time in which it has to come.

    Raises:
        HttpError: It is too large, of another type, comes too slowly, or is not a JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(415, "unsupported_media_type", "the body must be JSON: send content-type: application/json")
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, most)
    except TimeoutError as error:
        raise HttpError(400, "body_timeout", f"the body did not come within {seconds:g} seconds") from error
    request.scope[_SIZE] = len(body)
    return await read_apart(request, lambda: _parse(body))


async def read_apart(request: Request, read: Callable[[], T]) -> T:
    """Read something out of a request's body: off the event loop, unless the body is small."""
    if request.scope[_SIZE] <= _SMALL:
        return read()
    return await asyncio.to_thread(read)


async def _read(request: Request, most: int) -> bytearray:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", *_WINDOWS):
        msg = "this content-encoding is not read: send gzip, deflate, or the body as it is"
        raise HttpError(415, "unsupported_media_type", msg)
    unpack = zlib.decompressobj(_WINDOWS[encoding]) if encoding in _WINDOWS else None
    body, came = bytearray(), 0
    pieces = request.stream()
    try:
        async for piece in pieces:
            came += len(piece)
            body += piece if unpack is None else unpack.decompress(piece, most + 1 - len(body))
            if max(came, len(body)) > most or (unpack is not None and unpack.unconsumed_tail):
                body.clear()
                await _let_pass(pieces, most)
                raise _too_large(most)
    except zlib.error as error:
        raise HttpError(400, "invalid_request", f"the body is not {encoding}") from error
    except ClientDisconnect as error:
        raise HttpError(400, "invalid_request", "the body did not come whole") from error
    if unpack is not None and not unpack.eof:
        raise HttpError(400, "invalid_request", f"the body is {encoding} that was cut off")
    return body


async def _let_pass(pieces: AsyncIterator[bytes], most: int) -> None:
    """Read over some of what is still on its way: a client that is cut off while it sends never sees the answer."""
    came = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LET_PASS):
            async for piece in pieces:
                came += len(piece)
                if came > most:
                    return


def _too_large(most: int) -> HttpError:
    return HttpError(413, "body_too_large", f"the body may have {most:,} bytes, unpacked: send smaller pictures")


def _parse(body: bytearray) -> Json:
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "invalid_request", "the body is not JSON that can be read") from error
    if not isinstance(found, dict):
        raise HttpError(400, "invalid_request", "the body must be a JSON object")
    if _depth(found) > _DEEPEST:
        raise HttpError(400, "invalid_request", f"the body is nested deeper than {_DEEPEST} levels")
    return cast("Json", found)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse names that come twice: whoever reads the body after us may take the other one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a name comes twice"
        raise ValueError(msg)
    return found


def _refuse(_: str) -> object:
    msg = "NaN and infinity are no JSON"
    raise ValueError(msg)


def _depth(value: object) -> int:
    """Return how deep a value is nested, as far as it matters."""
    level, found = [value], 0
    while level and found <= _DEEPEST:
        found += 1
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    return found
