"""A model server that answers after a while, by repeating what it was asked: `python -m …endpoint.backend PORT SECONDS`.

It counts what reached it, and how often that held a word that a guard should have stopped.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

BAD, ASK_FOR_BAD = "BLOCKME", "say the bad word"
"""What the rules of the tests stop, and what makes this server say it."""

_USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
_SEEN: Counter[str] = Counter()


def said_to(body: dict[str, Any]) -> str:
    """Return the answer to a request."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return f"you said {text}" + (f" {BAD}" if ASK_FOR_BAD in text else "")


async def serve(reader: StreamReader, writer: StreamWriter, seconds: float) -> None:
    """Answer what comes over one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            raw = await reader.readexactly(int(fields.get("content-length", 0)))
            if head.startswith("GET"):
                writer.write(_whole(dict(_SEEN)))
                continue
            body = json.loads(raw)
            _SEEN["requests"] += 1
            _SEEN["marked"] += BAD in raw.decode()
            await asyncio.sleep(seconds)
            writer.write(_streamed(body) if body.get("stream") else _whole(_answer(body)))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ValueError, KeyError, LookupError):
        pass
    finally:
        writer.close()


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": said_to(body)}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": _USAGE}


def _whole(value: object) -> bytes:
    data = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def _streamed(body: dict[str, Any]) -> bytes:
    words = said_to(body).split(" ")
    deltas = [{"content": word + (" " if at < len(words) - 1 else "")} for at, word in enumerate(words)]
    events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": _USAGE})
    lines = [f"data: {json.dumps(one)}\n\n".encode() for one in events] + [b"data: [DONE]\n\n"]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


async def _main(port: int, seconds: float) -> None:
    server = await asyncio.start_server(lambda r, w: serve(r, w, seconds), "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
