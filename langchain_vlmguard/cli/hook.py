"""`vlmguard hook`: the guard as a hook of a coding agent, and the settings that such a hook needs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from langchain_vlmguard.serving.hook import Ask
    from langchain_vlmguard.verdict.records import Json

Agent = Literal["claude-code", "codex"]
_SLOWER = 20
"""Seconds that the agent waits beyond the hook's own deadline: starting Python is part of them."""

_EVENTS = {"UserPromptSubmit": {}, "PreToolUse": {"matcher": "*"}, "PostToolUse": {"matcher": "*"}}
_TRIAL = {"hook_event_name": "UserPromptSubmit", "prompt": "hello"}


def hook(
    agent: Annotated[Agent, typer.Argument(help="Whose hook this is.")],
    *,
    url: Annotated[
        str, typer.Option(envvar="VLMGUARD_HOOK_URL", help="Where `vlmguard serve` listens.")
    ] = "http://127.0.0.1:8000",
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the server's API key.")
    ] = "VLMGUARD_HOOK_KEY",
    guard: Annotated[
        str | None,
        typer.Option(help="A guard of yours, as module:object, in place of a server: it starts anew each time."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=300, help="Deadline; the agent must wait longer, or a late hook lets all pass."),
    ] = 8.0,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Claude Code goes on after a tool result was withheld.")
    ] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Try the hook, and print the settings that the agent needs.")
    ] = False,
) -> None:
    """Judge an event of a coding agent, which comes on stdin as JSON; whatever fails is a denial."""
    if settings:
        _print_settings(agent, url, key_env, guard, seconds, keep_going=keep_going)
        return

    def make_ask() -> Ask:
        from langchain_vlmguard.serving.hook import asks_server

        return _asks_object(guard) if guard is not None else asks_server(url, os.environ.get(key_env) or None, seconds)

    try:
        from langchain_vlmguard.serving.hook import run_hook
        from langchain_vlmguard.serving.hook_writers import WRITERS

        told = run_hook(sys.stdin.buffer, WRITERS[agent], make_ask, seconds, keep_going=keep_going)
        code, stdout, stderr = told.code, told.stdout, told.stderr
    except BaseException as error:  # noqa: BLE001 - an agent reads every other end as "go on"
        code, stdout, stderr = 2, "", f"The guard could not start, so this does not go on: {type(error).__name__}."
    sys.stdout.buffer.write(stdout.encode())
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(f"{stderr}\n".encode("utf-8", "replace") if stderr else b"")
    sys.stderr.buffer.flush()
    os._exit(code)  # the thread that asks may hang


def _asks_object(guard: str) -> Ask:
    from langchain_vlmguard.cli.named_object import named_object
    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.serving.hook import CannotAskError, asks_guard

    try:
        found = named_object(guard)
    except typer.BadParameter as error:
        raise CannotAskError(error.message) from error
    if not isinstance(found, GuardParts):
        msg = f"{guard} is a {type(found).__name__}, not a Guard"
        raise CannotAskError(msg)
    return asks_guard(found)


def _print_settings(
    agent: Agent, url: str, key_env: str, guard: str | None, seconds: float, *, keep_going: bool
) -> None:
    """Try the very command that the settings name, and print them.

    Raises:
        BadParameter: The command does not let a harmless prompt pass.
    """
    options = ["--seconds", f"{seconds:g}", *(["--keep-going"] if keep_going else [])]
    asked = ["--guard", guard] if guard is not None else ["--url", url, "--key-env", key_env]
    command = [*_program(), "hook", agent, *asked, *options]
    done = subprocess.run(  # noqa: S603 - our own program
        command, input=json.dumps(_TRIAL).encode(), capture_output=True, timeout=seconds + _SLOWER, check=False
    )
    if done.returncode or done.stdout:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        msg = f"the hook does not let a harmless prompt pass, so no settings were made: {said}"
        raise typer.BadParameter(msg)
    entry: Json = {"type": "command", "command": shlex.join(command), "timeout": round(seconds + _SLOWER)}
    hooks = {event: [{**beside, "hooks": [entry]}] for event, beside in _EVENTS.items()}
    typer.echo(json.dumps({"hooks": hooks}, indent=2))


def _program() -> list[str]:
    """Return this program by an absolute path that can be run from anywhere."""
    own = Path(sys.argv[0]).resolve()
    if own.name.removesuffix(".exe") == "vlmguard" and os.access(own, os.X_OK):
        return [str(own)]
    return [str(Path(sys.executable).absolute()), "-m", "langchain_vlmguard.cli"]
