"""A review outlives the process: one process stops at it, another goes on with the decision."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("restart_agent.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_folder():
    """Where Postgres' programs lie: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A Postgres server of our own on a free port, stopped at the end."""
    pytest.importorskip("psycopg", reason="needs langgraph-checkpoint-postgres and psycopg")
    pytest.importorskip("langgraph.checkpoint.postgres.aio", reason="needs langgraph-checkpoint-postgres")
    programs = postgres_folder()
    if programs is None:
        pytest.skip("no Postgres server here: apt-get install postgresql")
    # Not pytest's own folder: sessions that run at the same time delete each other's.
    folder, port = Path(tempfile.mkdtemp(prefix="vlmguard-postgres-")), free_port()
    as_user = {}
    if os.geteuid() == 0:  # Postgres does not run as root
        try:
            import pwd

            entry = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root, and there is no user 'postgres' to run the server as")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        as_user = {"user": "postgres", "group": entry.pw_gid, "extra_groups": []}

    log_file = tmp_path_factory.mktemp("logs") / "postgres.log"

    def program(name, *arguments):
        command = [str(programs / name), "-D", str(folder / "data"), *arguments]
        with log_file.open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", timeout=60, **as_user)  # noqa: S603

    program("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    program("pg_ctl", "-o", options, "-w", "-l", str(folder / "log"), "start")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    program("pg_ctl", "-m", "fast", "stop")
    shutil.rmtree(folder, ignore_errors=True)


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
