"""The programs as real processes, stopped by a real signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAMS = {"vlmguard": "langchain_vlmguard.cli", "vlmguard-bench": "vlmguard_lab.bench"}
PATIENCE = 240
"""Seconds until a test gives up on a program."""


def started(program, *words, **environment):
    """Start a program in a process group of its own, as a shell does: Ctrl-C reaches it, even if these tests ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in the background so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", PROGRAMS[program], *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stopped_when(process, happened):
    """Press Ctrl-C as soon as something happened; return exit code, stdout, stderr and the seconds the end took."""
    until = time.monotonic() + PATIENCE
    while not happened() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    pressed = time.monotonic()
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err, time.monotonic() - pressed


def finished(program, *words, **environment):
    """Run a program to its end; return exit code, stdout and stderr."""
    process = started(program, *words, **environment)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def lines_of(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0
