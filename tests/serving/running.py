"""A server on loopback in a thread, and clients that see every byte."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from langchain_vlmguard.serving.app import create_app
from langchain_vlmguard.serving.config import ServeConfig
from tests.serving.rules import guard_of_rules


@dataclass
class Running:
    """A server that runs."""

    port: int
    app: object
    rules: object = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def jobs(self):
        return self.app.state.service.jobs

    def idle(self, seconds=1.0):
        """Whether nothing runs or waits within some seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.jobs.running and not self.jobs.waiting:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def running(up, tmp_path, *, guard=None, by_config=False, policy=None, tracing=None, **config):
    """A server with the stub rules before a fake upstream; with the guard that the config describes if `by_config`."""
    rules = None
    if guard is None and not by_config:
        guard, rules = guard_of_rules(**(policy or {}))
    backend = {"kind": "upstream", "url": up.url, "models": ["up"], "key": {"value": "up-secret"}}
    given = {"guard": guard, "backend": backend, "reviews": {"path": tmp_path / "reviews.sqlite"}, **config}
    with listening(create_app(ServeConfig(**given), tracing=tracing)) as server:
        server.rules = rules
        yield server


@contextmanager
def listening(app):
    """An app on a free port of loopback."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none"))
    server.config.timeout_graceful_shutdown = 1
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end and thread.is_alive():
        time.sleep(0.01)
    assert server.started
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class Wire:
    """All bytes that a client received, with their times."""

    pieces: list = field(default_factory=list)

    @property
    def raw(self):
        return b"".join(piece for _, piece in self.pieces)

    @property
    def status(self):
        return int(self.raw.split(b" ", 2)[1])

    @property
    def headers(self):
        lines = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}

    @property
    def body(self):
        body = self.raw.partition(b"\r\n\r\n")[2]
        return _unchunked(body) if self.headers.get("transfer-encoding") == "chunked" else body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def data(self):
        """What the `data:` lines of an event stream hold."""
        return [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]

    @property
    def chunks(self):
        return [json.loads(one) for one in self.data if one != "[DONE]"]

    @property
    def streams(self):
        """Whether the answer is an event stream."""
        return "event-stream" in self.headers["content-type"]

    @property
    def response(self):
        """The whole response of the Responses API, None on other routes."""
        found = self.chunks[-1].get("response") if self.streams else self.json
        return found if found and found.get("object") == "response" else None

    @property
    def told(self):
        """What the answer says of its verdict."""
        if not self.streams:
            return self.json["vlmguard"]
        held = [one.get("response", one) for one in self.chunks]
        return next(one["vlmguard"] for one in reversed(held) if "vlmguard" in one)

    @property
    def said(self):
        """The words of the first choice, whole or streamed."""
        if self.response:
            if self.streams:
                return "".join(one["delta"] for one in self.chunks if one["type"] in _WORDS)
            parts = [part for item in self.json["output"] if item["type"] == "message" for part in item["content"]]
            return "".join(part.get("text") or part.get("refusal", "") for part in parts)
        if not self.streams:
            return self.json["choices"][0]["message"]["content"]
        deltas = [c["delta"] for one in self.chunks for c in one["choices"] if c["index"] == 0]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def thoughts(self):
        """What the answer says it was thinking."""
        if self.response:
            parts = [
                part for item in self.response["output"] if item["type"] == "reasoning" for part in item["content"]
            ]
            return "".join(part["text"] for part in parts)
        message = self.chunks[0]["choices"][0]["delta"] if self.streams else self.json["choices"][0]["message"]
        return "".join(message.get(key, "") for key in ("reasoning_content", "reasoning", "thinking"))

    @property
    def calls(self):
        """Name and arguments of each tool call."""
        if self.response:
            found = [item for item in self.response["output"] if item["type"] == "function_call"]
            return [(one["name"], json.loads(one["arguments"])) for one in found]
        if self.streams:
            found = [call for one in self.chunks for c in one["choices"] for call in c["delta"].get("tool_calls", ())]
        else:
            found = self.json["choices"][0]["message"].get("tool_calls", ())
        return [(one["function"]["name"], json.loads(one["function"]["arguments"])) for one in found]

    @property
    def refusal(self):
        """The words of a refusal."""
        if self.response:
            parts = [part for item in self.response["output"] if item["type"] == "message" for part in item["content"]]
            return "".join(part.get("refusal", "") for part in parts)
        message = self.chunks[0]["choices"][0]["delta"] if self.streams else self.json["choices"][0]["message"]
        return message["refusal"]

    @property
    def usages(self):
        """Every count of tokens that the answer tells."""
        if self.response:
            held = [one.get("response") or {} for one in self.chunks] if self.streams else [self.json]
        else:
            held = self.chunks if self.streams else [self.json]
        return [one["usage"] for one in held if one.get("usage")]

    @property
    def ends(self):
        """The finish reasons of the first choice, in a chat's words."""
        if self.response:
            cut = self.response["incomplete_details"]
            calls = any(item["type"] == "function_call" for item in self.response["output"])
            return [cut["reason"] if cut else "tool_calls" if calls else "stop"]
        if not self.streams:
            return [self.json["choices"][0]["finish_reason"]]
        found = [c["finish_reason"] for one in self.chunks for c in one["choices"] if c["index"] == 0]
        return [one for one in found if one]

    @property
    def ends_once(self):
        """Whether a stream has one end, and it is the last thing."""
        if not self.response:
            return self.data.count("[DONE]") == 1 and self.data[-1] == "[DONE]" and len(self.ends) == 1
        over = [at for at, one in enumerate(self.chunks) if one["type"] in _OVER]
        return "[DONE]" not in self.data and over == [len(self.chunks) - 1]


_WORDS = ("response.output_text.delta", "response.refusal.delta")
_OVER = ("response.completed", "response.incomplete", "response.failed", "error")


def _unchunked(body):
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        if not size or not (count := int(size, 16)):
            break
        out, body = out + rest[:count], rest[count + 2 :]
    return out


def send(port, body, path="/v1/chat/completions", *, method="POST", headers=None, seconds=20.0, leave_after=None):
    """Send a request by a plain socket and return all that came back, with times."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "x", "content-type": "application/json", "content-length": len(data), "connection": "close"}
    lines = [
        f"{method} {path} HTTP/1.1",
        *(f"{k}: {v}" for k, v in (fields | (headers or {})).items() if v is not None),
    ]
    wire = Wire()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data)
        if leave_after is not None:
            time.sleep(leave_after)
            return wire
        while piece := client.recv(65536):
            wire.pieces.append((time.monotonic(), piece))
    return wire


def asks(text="hi", **fields):
    """The body of a chat request."""
    return {"model": "up", "messages": [{"role": "user", "content": text}], **fields}


def write_config(tmp_path, up, **fields):
    """A config file of a server with the stub rules before a fake upstream."""
    config = {
        "listen": {"port": 0},
        "guard": "tests.serving.rules:GUARD",
        "backend": {"kind": "upstream", "url": up.url, "models": ["up"]},
        "reviews": {"path": str(tmp_path / "reviews.sqlite")},
        **fields,
    }
    path = tmp_path / "guard.yaml"
    path.write_text(json.dumps(config))
    return path


def started(config):
    """`vlmguard serve` in a process of its own, and the port that it says it listens on."""
    command = [sys.executable, "-m", "langchain_vlmguard.cli", "serve", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
    end = time.monotonic() + 60
    for line in process.stderr:
        assert time.monotonic() < end
        said = json.loads(line)
        if said.get("said") == "listening":
            return process, said["port"]
    raise AssertionError(process.wait())
