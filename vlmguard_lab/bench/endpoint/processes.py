"""The server and the backend in processes of their own, started, looked at and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import write_json
from vlmguard_lab.bench import page

if TYPE_CHECKING:
    from collections.abc import Iterator

GATE, RULES = "vlmguard_lab.bench.endpoint.gate:GUARD", "tests.serving.rules:GUARD"
"""Guards that servers here are given: the testbed's gate alone, or rules that know which words are bad."""

_START = 120.0
"""Seconds that a process has to answer for the first time."""


@dataclass
class Process:
    """A process that listens on a port of loopback."""

    command: list[str]
    port: int
    ready: str
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            EvaluationError: It ended, or did not answer in time.
        """
        environment = {**os.environ, "PYTHONPATH": str(page.ROOT), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        end = time.monotonic() + _START
        while time.monotonic() < end and self.running.poll() is None:
            try:
                self.get(self.ready)
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        msg = f"{' '.join(self.command[:4])} did not start: {self.log} says why"
        raise EvaluationError(msg)

    def get(self, path: str) -> bytes:
        """Return what it says at a path."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def pause(self) -> None:
        """Let it stand still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, how: signal.Signals) -> None:
        assert self.running is not None  # noqa: S101
        self.running.send_signal(how)

    def kill(self) -> None:
        """End it without asking, and wait."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.running is None or self.running.poll() is not None:
            return
        self.running.send_signal(how)
        try:
            self.running.wait(20)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait(10)

    @property
    def sockets(self) -> int:
        """How many sockets it has open."""
        assert self.running is not None  # noqa: S101
        return sum(_link(one).startswith("socket:") for one in Path(f"/proc/{self.running.pid}/fd").iterdir())

    @property
    def threads(self) -> int:
        """How many threads it has."""
        assert self.running is not None  # noqa: S101
        return sum(1 for _ in Path(f"/proc/{self.running.pid}/task").iterdir())

    @property
    def megabytes(self) -> float:
        """How much memory it holds."""
        assert self.running is not None  # noqa: S101
        pages = int(Path(f"/proc/{self.running.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

    def number(self, name: str) -> float:
        """Return a number of its metrics, summed over labels."""
        lines = [line for line in self.get("/metrics").decode().split("\n") if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextmanager
def serving(folder: Path, guard: str, seconds: float, **config: Any) -> Iterator[tuple[Process, Process]]:
    """Run a server before a backend, and yield both.

    Args:
        folder: For its config, its reviews and what both print.
        guard: `module:object` of the guard.
        seconds: That the backend takes for an answer.
        **config: More of the server's config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, behind = _free_port(), _free_port()
    fields = {
        "listen": {"port": port},
        "guard": guard,
        "backend": {"kind": "upstream", "url": f"http://127.0.0.1:{behind}/v1", "models": ["bench"]},
        "reviews": {"path": str(folder / "reviews.sqlite")},
        "drain": {"pause": 0, "grace": 2},
        **config,
    }
    write_json(folder / "guard.yaml", fields)
    command = [sys.executable, "-m", "vlmguard_lab.bench.endpoint.backend", str(behind), str(seconds)]
    backend = Process(command, behind, "/seen", folder / "backend.log")
    command = [sys.executable, "-m", "langchain_vlmguard.cli", "serve", "--config", str(folder / "guard.yaml")]
    server = Process(command, port, "/readyz", folder / "server.log")
    with ExitStack() as stack:
        for one in (backend, server):
            stack.callback(one.stop)
            one.start()
        yield server, backend


def seen_by(backend: Process) -> dict[str, int]:
    """Return what reached a backend."""
    return {"requests": 0, "marked": 0, **json.loads(backend.get("/seen"))}


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
