"""The real LiteLLM proxy as a program on loopback."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest

KEY = "sk-only-on-loopback-0123456789"
PROXY = os.environ.get("VLMGUARD_LITELLM") or shutil.which("litellm")
NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(PROXY is None, reason="no litellm proxy here: name its program in VLMGUARD_LITELLM"),
]
"""Marks of tests that start it."""


@contextmanager
def litellm_proxy(folder, config):
    """A proxy with a config; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    whole = {
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        **config,
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(whole))
    quiet = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    quiet.pop("PYTHONPATH", None)
    with (folder / "log").open("w") as log:
        command = [PROXY, "--config", str(path), "--port", str(port), "--host", "127.0.0.1"]
        process = subprocess.Popen(command, env=quiet, stdout=log, stderr=log, cwd=folder)  # noqa: S603
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(port, process):
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the proxy did not start")  # noqa: EM101, TRY003
