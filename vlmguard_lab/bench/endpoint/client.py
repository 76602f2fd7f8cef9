"""A caller on a plain connection: it sees every byte, and can leave, stall, send slowly or send rubbish."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

CHAT = "/v1/chat/completions"
PATIENCE = 60.0
"""Seconds after which a request counts as lost."""


@dataclass
class Reply:
    """What came back."""

    status: int = 0
    body: bytes = b""
    is_whole: bool = False
    """Whether it ended as HTTP ends."""

    seconds: float = 0.0

    @property
    def is_answer(self) -> bool:
        """Whether it is a whole answer: JSON with a choice, or a stream that says that it is over."""
        if self.status != 200 or not self.is_whole:  # noqa: PLR2004
            return False
        return b'"choices"' in self.body and (not self.body.startswith((b"data", b":")) or b"data: [DONE]" in self.body)

    @property
    def is_error(self) -> bool:
        """Whether a client hears that there is no answer: an error, or a connection that broke off."""
        return not self.is_whole or self.status >= 400 or b'"error"' in self.body  # noqa: PLR2004

    @property
    def said(self) -> str:
        """The words of an answer."""
        if not self.body.startswith((b"data", b":")):
            return str(json.loads(self.body)["choices"][0]["message"]["content"] or "")
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


class Caller:
    """One caller, who keeps its connection as long as the server does."""

    def __init__(self, port: int) -> None:
        """Call a port of loopback."""
        self.port = port
        self._open: tuple[StreamReader, StreamWriter] | None = None

    async def ask(self, body: dict[str, Any], path: str = CHAT) -> Reply:
        """Send a request and wait for all of the answer."""
        started = time.perf_counter()
        try:
            reply = await asyncio.wait_for(self._ask(request(body, path)), PATIENCE)
        except TimeoutError:
            self.close()
            return Reply(is_whole=True, seconds=time.perf_counter() - started)  # lost: neither an answer nor an error
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            reply = Reply()
        reply.seconds = time.perf_counter() - started
        return reply

    async def _ask(self, data: bytes) -> Reply:
        reader, writer = await self.connection()
        writer.write(data)
        await writer.drain()
        return await self.read(reader)

    async def connection(self) -> tuple[StreamReader, StreamWriter]:
        """Return the connection, a new one if there is none."""
        if self._open is None or self._open[1].is_closing():
            self._open = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        return self._open

    async def read(self, reader: StreamReader) -> Reply:
        """Read one answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            body = await reader.readexactly(int(fields.get("content-length", 0)))
        if fields.get("connection") == "close":
            self.close()
        return Reply(status, body, is_whole=True)

    def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def request(body: dict[str, Any] | bytes, path: str = CHAT) -> bytes:
    """Return a request as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def asks(text: str, *, stream: bool = False, picture: str | None = None) -> dict[str, Any]:
    """Return a chat request."""
    content: str | list[dict[str, Any]] = text
    if picture is not None:
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return {"model": "bench", "messages": [{"role": "user", "content": content}], "stream": stream}
