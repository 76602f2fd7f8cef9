"""A review outlives the process: one process stops at it, another goes on with the decision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres import postgres_server

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("restart_agent.py")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A Postgres server of our own on a free port, stopped at the end."""
    with postgres_server(tmp_path_factory.mktemp("logs") / "postgres.log") as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    pytest.importorskip("langgraph.checkpoint.sqlite.aio", reason="needs langgraph-checkpoint-sqlite")
    return str(tmp_path / "threads.sqlite")


def process(address, decisions):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), address, json.dumps(decisions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


CASES = [
    ("input", "approve", ["maybe a kite", "a kite"], []),
    ("input", {"decision": "edit", "prompt": "a cake"}, ["maybe a kite", "a kite"], []),
    ("output", {"decision": "approve"}, ["hi", "maybe this"], []),
    ("output", "reject", None, []),
    ("tool_args", "approve", ["hi", "", "ordered", "done"], ["maybe kite"]),
    ("tool_args", {"decision": "edit", "args": {"item": "cake"}}, ["hi", "", "ordered", "done"], ["cake"]),
    ("tool_args", "reject", None, []),
    ("tool_result", "approve", ["hi", "", "maybe ordered", "done"], []),
    ("tool_result", "reject", None, []),
]


def test_a_review_goes_on_in_another_process(address):
    threads = {f"{stage} {decision}": (stage, decision, said, ran) for stage, decision, said, ran in CASES}
    before = process(address, dict.fromkeys(threads))
    after = process(address, {thread: decision for thread, (_, decision, _, _) in threads.items()})
    for thread, (stage, _, said, ran) in threads.items():
        assert [stop["stage"] for stop in before[thread]["stops"]] == [stage], thread
        assert before[thread]["stops"][0]["verdict"]["action"] == "review"
        assert before[thread]["ran"] == (["kite"] if stage == "tool_result" else []), thread
        assert after[thread]["stops"] == []
        assert after[thread]["ran"] == ran, thread
        if said is not None:
            assert after[thread]["messages"] == said
        else:
            assert "maybe" not in str(after[thread]["messages"]), thread
            assert any("can't help" in text for text in after[thread]["messages"])
