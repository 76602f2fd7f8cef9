"""Hooks of coding agents: what is not let pass, or fails, is said in the form that the agent reads as "no". Cases 31, 32."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from langchain_vlmguard.serving.hook import asks_guard, asks_server, run_hook
from langchain_vlmguard.serving.hook_events import CALL, PROMPT, RESULT
from langchain_vlmguard.serving.hook_writers import WRITERS, Told
from tests.serving.rules import BAD, BLOCKME, BREAKME, GOOD, HOLDME, MASKME, SLEEPME, guard_of_rules
from tests.serving.running import running
from tests.serving.upstream import Upstream, whole

PNG = {name: base64.b64encode(data).decode() for name, data in (("bad", BAD), ("good", GOOD))}
COMMON = {"session_id": "s", "transcript_path": None, "cwd": "/", "permission_mode": "default"}


def closed(*required, **properties):
    return {"type": "object", "additionalProperties": False, "required": [*required], "properties": properties}


REASON = {"type": "string", "pattern": r"\S"}
CODEX = {  # what Codex's published schemas take; a key more, and the whole answer counts for nothing
    CALL: closed(
        "hookSpecificOutput",
        hookSpecificOutput=closed(
            "hookEventName",
            "permissionDecision",
            "permissionDecisionReason",
            hookEventName={"const": CALL},
            permissionDecision={"const": "deny"},
            permissionDecisionReason=REASON,
        ),
    ),
    RESULT: closed("decision", "reason", decision={"const": "block"}, reason=REASON),
    PROMPT: closed("decision", "reason", decision={"const": "block"}, reason=REASON),
}
CLAUDE = closed(
    "decision",
    "reason",
    "hookSpecificOutput",
    decision={"const": "block"},
    reason=REASON,
    hookSpecificOutput=closed(
        "hookEventName", "updatedToolOutput", hookEventName={"const": RESULT}, updatedToolOutput={}
    ),
    **{"continue": {"const": False}, "stopReason": REASON},
)


def prompt(text):
    return {**COMMON, "hook_event_name": PROMPT, "prompt": text}


def call(tool="Bash", **arguments):
    return {**COMMON, "hook_event_name": CALL, "tool_name": tool, "tool_input": arguments, "tool_use_id": "t"}


def result(response, tool="Read"):
    return {**call(tool, file_path="/a.png"), "hook_event_name": RESULT, "tool_response": response}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Upstream() as up, running(up, tmp_path_factory.mktemp("hook")) as found:
        yield found


@pytest.fixture(params=["server", "process"])
def ask(request, server):
    """A guard behind a server, and one in this process."""
    if request.param == "server":
        return lambda: asks_server(server.url.removesuffix("/v1"), None, 10)
    return lambda: asks_guard(guard_of_rules()[0])


def hooked(agent, event, ask, seconds=10.0, **options):
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    return run_hook(io.BytesIO(raw), WRITERS[agent], ask, seconds, **options)


def denied(agent, told, event):
    """Whether the agent reads it as "no"; anything that it would not read is an error."""
    assert BLOCKME not in f"{told.stdout} {told.stderr}"
    if told == Told():
        return False
    name = event.get("hook_event_name") if isinstance(event, dict) else None
    if name not in CODEX or (agent == "claude-code" and name != RESULT):
        assert (told.code, told.stdout) == (2, "")
        assert told.stderr.strip()
        return True
    assert (told.code, told.stderr) == (0, "")
    jsonschema.validate(json.loads(told.stdout), CLAUDE if agent == "claude-code" else CODEX[name])
    return True


SCREENSHOTS = {
    "Claude Code's Read": lambda png: {
        "type": "image",
        "file": {"base64": png, "type": "image/png", "originalSize": 9},
    },
    "MCP": lambda png: [{"type": "text", "text": "shot"}, {"type": "image", "data": png, "mimeType": "image/png"}],
    "MCP, whole": lambda png: {"content": [{"type": "image", "data": png, "mimeType": "image/png"}], "isError": False},
    "Anthropic": lambda png: [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}}],
    "OpenAI": lambda png: [{"type": "input_image", "image_url": f"data:image/png;base64,{png}"}],
    "inside text": lambda png: {"stdout": f"data:image/png;base64,{png}", "stderr": ""},
}


@pytest.mark.parametrize("agent", WRITERS)
def test_words_calls_and_results_pass_or_are_denied(agent, ask):
    for event, bad in (
        (prompt("hi"), False),
        (prompt(f"x {BLOCKME}"), True),
        (prompt(HOLDME), True),  # nobody is asked here: what should wait is denied
        (call(command="ls"), False),
        (call(command=f"echo {BLOCKME}"), True),
        (call("mcp__web__open", url={"deep": [f"http://x/{BLOCKME}"]}), True),
        (call(f"odd {BLOCKME} name"), True),
        (result({"stdout": "fine", "stderr": "", "interrupted": False}, "Bash"), False),
        (result({"stdout": "fine", "stderr": BLOCKME, "interrupted": False}, "Bash"), True),
        (result(f"page {BLOCKME}"), True),
        (result([{"type": "text", "text": BLOCKME}]), True),
    ):
        assert denied(agent, hooked(agent, event, ask), event) is bad, event


@pytest.mark.parametrize("shape", SCREENSHOTS)
@pytest.mark.parametrize("agent", WRITERS)
def test_pictures_in_tool_results_are_looked_at_wherever_they_stand(agent, shape, ask):
    for name in ("good", "bad"):
        event = result(SCREENSHOTS[shape](PNG[name]))
        told = hooked(agent, event, ask)
        assert denied(agent, told, event) is (name == "bad")
        assert PNG["bad"] not in told.stdout


@pytest.mark.parametrize("shape", SCREENSHOTS)
def test_what_is_put_in_place_of_a_result_has_its_form_and_nothing_of_it(shape, ask):
    given = SCREENSHOTS[shape](PNG["bad"])
    told = json.loads(hooked("claude-code", result(given), ask).stdout)
    instead = told["hookSpecificOutput"]["updatedToolOutput"]
    assert type(instead) is type(given)
    if isinstance(given, dict):
        assert instead.keys() == given.keys()
        assert instead.get("type") == given.get("type")
        assert [*instead.get("file", {})] == [*given.get("file", {})]
    assert PNG["bad"] not in json.dumps(instead)
    assert told["continue"] is False
    kept = json.loads(hooked("claude-code", result(given), ask, keep_going=True).stdout)
    assert "continue" not in kept


@pytest.mark.parametrize("agent", WRITERS)
@pytest.mark.parametrize(
    "event",
    [
        prompt(BREAKME),
        call(command="BREAKANSWER"),
        result(BREAKME),
        result({"type": "image", "file": {"base64": "iVBORw0KGgoAAAANSUhEUgAA", "type": "image/png"}}),
        result({"type": "pdf", "file": {"base64": base64.b64encode(b"%PDF-1.7 and so on").decode()}}),
    ],
)
def test_what_cannot_be_judged_is_denied(agent, event, ask):
    assert denied(agent, hooked(agent, event, ask), event)


@pytest.mark.parametrize("agent", WRITERS)
@pytest.mark.parametrize(
    "event",
    [
        result([{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]),
        result({"resource": {"blob": "AAAA", "mimeType": "application/zip"}}),
        {**COMMON, "hook_event_name": "Stop"},
        {**prompt("hi"), "prompt": None},
        {**call(), "tool_name": 3},
        {key: value for key, value in result("x").items() if key != "tool_response"},
        [],
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_denied(agent, event, ask):
    told = hooked(agent, event, ask)
    assert (told.code, told.stdout) == (2, "")
    assert told.stderr.strip()


@pytest.mark.parametrize("agent", WRITERS)
def test_a_guard_that_is_late_or_away_is_a_denial_within_the_deadline(agent, server):
    url = server.url.removesuffix("/v1")
    for make_ask in (
        lambda: asks_server(url, None, 10),
        lambda: asks_server("http://127.0.0.1:9", None, 10),
        lambda: asks_server("no address", None, 10),
        lambda: 1 / 0,
    ):
        started = time.monotonic()
        event = prompt(SLEEPME)
        assert denied(agent, hooked(agent, event, make_ask, 0.5), event)
        assert time.monotonic() - started < 1.5
    for script in (whole({}, 500), whole({"action": "none"}), whole(b"no"), whole({}), whole([])):
        with Upstream() as other:
            other.script = script
            url = f"http://127.0.0.1:{other.port}"
            assert denied(agent, hooked(agent, event, lambda url=url: asks_server(url, None, 10)), event)


def test_a_rewriting_is_offered_to_the_person(ask):
    assert "say [X]" in hooked("claude-code", prompt(f"say {MASKME}"), ask).stderr


def command(*options, stdin=b"", agent="claude-code"):
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "langchain_vlmguard.cli", "hook", agent, *options],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "VLMGUARD_HOOK_KEY": ""},
    )
    return Told(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def test_case_31_the_command_denies_by_exit_code_2_whatever_fails(server):
    url = server.url.removesuffix("/v1")
    good, bad = (json.dumps(prompt(text)).encode() for text in ("hi", BLOCKME))
    assert command("--url", url, stdin=good) == Told()
    for options, stdin in (
        (("--url", url), bad),
        (("--guard", "tests.serving.rules:BAD"), good),
        (("--no-such-option",), good),
    ):
        told = command(*options, stdin=stdin)
        assert (told.code, told.stdout) == (2, ""), (options, told)
        assert told.stderr.strip()
        assert BLOCKME not in told.stderr


def test_case_32_codex_reads_json_and_the_guard_may_be_in_the_process():
    event = call(command=BLOCKME)
    told = command("--guard", "tests.serving.rules:GUARD", stdin=json.dumps(event).encode(), agent="codex")
    assert denied("codex", told, event)


def test_settings_name_a_command_that_was_tried(server):
    told = command("--url", server.url.removesuffix("/v1"), "--settings")
    assert told.code == 0, told
    hooks = json.loads(told.stdout)["hooks"]
    assert [*hooks] == [PROMPT, CALL, RESULT]
    entry = hooks[CALL][0]["hooks"][0]
    assert Path(entry["command"].split()[0]).is_absolute()
    assert os.access(entry["command"].split()[0], os.X_OK)
    assert entry["timeout"] > 8
    failed = command("--url", "http://127.0.0.1:9", "--settings", agent="codex")
    assert (failed.code, failed.stdout) == (2, "")
