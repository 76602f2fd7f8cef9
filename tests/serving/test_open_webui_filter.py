"""The filter for Open WebUI, loaded as its host loads it: a file's text is run, `Filter()` is made, valves are set. Case 33."""

import asyncio
import inspect
import json
import sys
import types
from pathlib import Path

import pytest

from tests.serving.rules import BADIMG, BLOCKME, BREAKME, GOODIMG, HOLDME, MASKME
from tests.serving.running import running
from tests.serving.upstream import Upstream, whole

FILE = Path(__file__).parents[2] / "examples" / "open_webui_filter.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Upstream() as up, running(up, tmp_path_factory.mktemp("filter")) as found:
        yield found


def loaded(**valves):
    """A filter as Open WebUI makes it: from text, with four old import paths replaced, in a module that no file backs."""
    text = FILE.read_text(encoding="utf-8")
    for old in ("utils", "apps", "main", "config"):
        text = text.replace(f"from {old}", f"from open_webui.{old}")
    module = types.ModuleType("function_vlmguard")
    sys.modules[module.__name__] = module
    exec(text, module.__dict__)  # noqa: S102 - what the host does
    made = module.Filter()
    made.valves = made.Valves(**valves)
    return made


@pytest.fixture
def run(server):
    """Calls a handler as the host does: only with the parameters that its signature names."""
    made = loaded(url=server.url.removesuffix("/v1"))

    def call(kind, given, made=made, **extra):
        handler = getattr(made, kind)
        names = inspect.signature(handler).parameters
        params = {"event" if kind == "stream" else "body": given, **{k: v for k, v in extra.items() if k in names}}
        found = handler(**params)
        return asyncio.run(found) if inspect.iscoroutine(found) else found

    return call


def body(content, **fields):
    return {"model": "m", "messages": [{"role": "user", "content": content}], "stream": True, **fields}


def picture(url):
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]


def test_the_host_can_read_what_it_is_and_needs():
    first, *lines = FILE.read_text(encoding="utf-8").splitlines()
    assert first == '"""'
    told = dict(line.split(": ", 1) for line in lines[: next(i for i, one in enumerate(lines) if '"""' in one)])
    assert {"title", "version", "requirements"} <= told.keys()
    assert not hasattr(loaded(), "outlet")  # the host may skip it, so it would protect nothing
    assert loaded().Valves().priority == 0


@pytest.mark.parametrize("extra", [{}, {"__metadata__": None}, {"__metadata__": {}, "__user__": {"id": "u"}}])
@pytest.mark.parametrize(
    "given",
    [
        body(BLOCKME),
        body(BREAKME),
        body(HOLDME),
        body([{"type": "text", "text": f"x {BLOCKME}"}]),
        body(picture(BADIMG)),
        body("hi", files=[{"type": "image", "url": BADIMG}]),
        body("hi", metadata={"files": [{"type": "image", "url": BADIMG}]}),
        body("hi", metadata=None, files=[{"type": "image", "url": "/api/v1/files/1"}]),
        body("hi", files=[{"type": "file", "id": "1"}]),
        body([{"type": "input_audio", "input_audio": {}}]),
        {"messages": [{"role": "user", "content": "hi", "images": [BADIMG.partition(",")[2]]}]},
        {"messages": [{"role": "system", "content": BLOCKME}, {"role": "user", "content": "hi"}]},
        {
            "messages": [
                {"role": "user", "content": picture(BADIMG)},
                {"role": "assistant", "content": "a"},
                *body("b")["messages"],
            ]
        },
    ],
)
def test_case_33_a_bad_request_raises_without_chat_or_metadata(run, given, extra):
    with pytest.raises(Exception, match=r"\w") as raised:
        run("inlet", given, **extra)
    assert type(raised.value).__name__ == "DeniedError"
    assert BLOCKME not in str(raised.value)


def test_what_is_harmless_goes_on_untouched_and_what_is_masked_goes_on_masked(run):
    for given in (body("hi"), body(picture(GOODIMG), chat_id="c", files=[{"type": "image", "url": GOODIMG}])):
        assert run("inlet", json.loads(json.dumps(given)), __metadata__={}) == given
    assert run("inlet", body(f"say {MASKME}"))["messages"][0]["content"] == "say [X]"
    masked = run("inlet", body([{"type": "text", "text": f"say {MASKME}"}]))
    assert masked["messages"][0]["content"] == [{"type": "text", "text": "say [X]"}]


def event(delta=None, finish=None, number="chatcmpl-1", **fields):
    return {"id": number, "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **fields}


def test_case_33_an_answer_is_never_streamed_in_pieces_before_it_was_judged(run):
    for field in ("content", "reasoning_content"):
        for piece in (*BLOCKME,):
            out = run("stream", event({field: piece}), __metadata__={"chat_id": "c"})
            assert out["choices"][0]["delta"] == {}
        with pytest.raises(Exception, match=r"\w") as raised:
            run("stream", event(finish="stop"), __metadata__={"chat_id": "c"})
        assert type(raised.value).__name__ == "DeniedError"
        assert BLOCKME not in str(raised.value)


def test_a_harmless_answer_comes_whole_and_once_whatever_else_runs(run):
    said = []
    for piece in ("a ki", "te", None):
        for number in ("one", "two"):
            finish = None if piece else "stop"
            out = run("stream", event({"content": piece} if piece else {}, finish, number, x_unknown=BLOCKME))
            assert BLOCKME not in json.dumps(out)
            said.append(out["choices"][0]["delta"].get("content"))
    assert said == [None, None, None, None, "a kite", "a kite"]


def test_tool_calls_are_judged_whole(run):
    pieces = [
        {"index": 0, "function": {"name": "run", "arguments": '{"a": "BLO'}},
        {"index": 0, "function": {"arguments": 'CKME"}'}},
    ]
    for piece in pieces:
        assert run("stream", event({"tool_calls": [piece]}))["choices"][0]["delta"] == {}
    with pytest.raises(Exception, match=r"\w"):
        run("stream", event(finish="tool_calls"))
    fine = [{"index": 0, "id": "c", "function": {"name": "run", "arguments": "{}"}}]
    run("stream", event({"tool_calls": fine}))
    assert run("stream", event(finish="tool_calls"))["choices"][0]["delta"]["tool_calls"] == fine


def test_errors_and_events_without_an_owner_say_nothing(run):
    assert BLOCKME not in json.dumps(run("stream", {"error": {"message": BLOCKME}}))
    with pytest.raises(Exception, match=r"\w"):
        run("stream", event({"content": "hi"}, number=None))
    assert run("stream", {"id": "u", "choices": [], "usage": {"total_tokens": 3}})["usage"] == {"total_tokens": 3}


def test_a_guard_that_is_away_or_unclear_is_a_denial(run):
    with Upstream() as other:
        url = f"http://127.0.0.1:{other.port}"
        for script in (whole({}, 500), whole({"action": "none"}), whole(b"no"), whole([])):
            other.script = script
            with pytest.raises(Exception, match=r"\w"):
                run("inlet", body("hi"), made=loaded(url=url))
    for url in ("http://127.0.0.1:9", "no address"):
        with pytest.raises(Exception, match="no answer"):
            run("inlet", body("hi"), made=loaded(url=url))


def test_files_may_pass_where_an_administrator_says_so(run, server):
    made = loaded(url=server.url.removesuffix("/v1"), unread_files="pass")
    given = body("hi", files=[{"type": "file", "id": "1"}])
    assert run("inlet", given, made=made) == given
