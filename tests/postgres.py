"""A real Postgres server for tests, where its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest


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


@contextmanager
def postgres_server(log_file):
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

    def program(name, *arguments):
        command = [str(programs / name), "-D", str(folder / "data"), *arguments]
        with log_file.open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", timeout=60, **as_user)  # noqa: S603

    program("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    program("pg_ctl", "-o", options, "-w", "-l", str(folder / "log"), "start")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        program("pg_ctl", "-m", "fast", "stop")
        shutil.rmtree(folder, ignore_errors=True)
