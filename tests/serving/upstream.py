"""`UP`: a server on loopback that plays scripts of bytes, and records requests, open sockets and when it sent what."""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: dict
    body: bytes
    sent: list = field(default_factory=list)
    """Times at which bytes were sent, with how many."""

    closed_at: float | None = None
    """When its connection was closed, seen from here."""

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Script:
    """What is played to one request: bytes and pauses in seconds, in order."""

    steps: list
    close: bool = True


def head(status=200, **headers):
    lines = [f"HTTP/1.1 {status} X", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body, status=200, **headers):
    """An answer in one piece."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kept = {"content_type": "application/json", "content_length": len(data)}
    return Script([head(status, **{**kept, **headers}) + data])


def streamed(*steps):
    """An event stream: bytes and pauses. It ends with the connection."""
    return Script([head(content_type="text/event-stream"), *steps])


def completion(message=None, finish="stop", **fields):
    """A chat completion in OpenAI's form."""
    message = {"role": "assistant", "content": "fine", **(message or {})}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choice = {"index": 0, "message": message, "finish_reason": finish, **fields}
    return {"id": "up-1", "object": "chat.completion", "model": "up-model", "choices": [choice], "usage": usage}


def event(delta=None, finish=None, index=0, **fields):
    """A chunk as an event."""
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return (
        b"data: "
        + json.dumps({"id": "up-1", "object": "chat.completion.chunk", "choices": [choice], **fields}).encode()
        + b"\n\n"
    )


def plays(stream, message=None, finish="stop"):
    """An answer as the client asked for it: whole, or as a stream with each of its texts cut in two."""
    if not stream:
        return whole(completion(message, finish))
    said = {"content": "fine", **(message or {})}
    deltas = [one for key, value in said.items() if value is not None for one in _halves(key, value)]
    return streamed(event({"role": "assistant"}), *map(event, deltas), event(finish=finish), USAGE, DONE)


def _halves(key, value):
    if isinstance(value, str):
        at = len(value) // 2
        return [{key: value[:at]}, {key: value[at:]}]
    if key != "tool_calls":
        return [{key: value}]
    return [{key: [piece]} for at, one in enumerate(value) for piece in _call_halves(at, one)]


def _call_halves(index, call):
    function = call["function"]
    at = len(function["arguments"]) // 2
    yield {**call, "index": index, "function": {**function, "arguments": function["arguments"][:at]}}
    yield {"index": index, "function": {"arguments": function["arguments"][at:]}}


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\n\n'
DONE = b"data: [DONE]\n\n"


class Upstream:
    """Plays `script`, or what `scripts` holds in turn. As a context manager it listens."""

    def __init__(self):
        self.forget()
        self.open = 0
        self.port = None
        self._loop = asyncio.new_event_loop()

    def forget(self):
        """Be as at the beginning."""
        self.script = whole(completion())
        self.scripts = []
        self.requests = []

    def __enter__(self):
        ready = threading.Event()

        async def begin():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            ready.set()

        self._thread = threading.Thread(target=self._run, args=(begin,), daemon=True)
        self._thread.start()
        assert ready.wait(5)
        return self

    def _run(self, begin):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(begin())
        self._loop.run_forever()

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self):
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self):
        return self.requests[-1]

    async def _serve(self, reader, writer):
        self.open += 1
        request = None
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            first, *lines = raw.decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, path, _ = first.split(" ")
            request = Received(method, path, headers, body)
            self.requests.append(request)
            script = self.scripts.pop(0) if self.scripts else self.script
            playing = asyncio.ensure_future(self._play(script, request, writer))
            left = asyncio.ensure_future(reader.read())
            try:
                await asyncio.wait({playing, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                playing.cancel()
                left.cancel()
                await asyncio.gather(playing, left, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if request is not None:
                request.closed_at = time.monotonic()
            self.open -= 1
            writer.close()

    async def _play(self, script, request, writer):
        for step in script.steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                request.sent.append((time.monotonic(), len(step)))
            elif isinstance(step, threading.Event):
                while not step.is_set():  # noqa: ASYNC110 - a thread that waits would outlive this upstream
                    await asyncio.sleep(0.01)
            else:
                await asyncio.sleep(step)
