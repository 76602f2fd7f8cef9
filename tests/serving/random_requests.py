"""Random requests with a mark in a random place, on every route that judges one; and what must become of each."""

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.serving.random_answers import HARMLESS
from tests.serving.rules import BLOCKME
from tests.serving.upstream import DONE, completion, event
from tests.serving.ways import WAYS

GUARD, LITELLM = "/v1/guard", "/beta/litellm_basic_guardrail_api"
WORDS = st.text("abc de", min_size=1, max_size=8).map(lambda text: f"x{text}x")
PLACES = (
    "system",
    "developer",
    "first turn",
    "turn before",
    "last turn",
    "part",
    "answer",
    "call",
    "result",
    "result part",
    "tool words",
    "tool schema",
    "hosted tool",
    "form",
)


@dataclass(frozen=True)
class Request:
    """A conversation, what stands beside it, and where it goes."""

    route: object
    place: str
    is_bad: bool
    messages: list
    beside: dict


@st.composite
def requests(draw):
    route, place = draw(st.sampled_from([*WAYS, GUARD, LITELLM])), draw(st.sampled_from(PLACES))
    is_bad = draw(st.booleans())
    mark = BLOCKME if is_bad else HARMLESS

    def words(where):
        return f"{draw(WORDS)}{f' {mark}' if where == place else ''}"

    call = {"name": "look", "arguments": f'{{"at": "{words("call")}"}}'}
    part = [{"type": "text", "text": words("result part")}]
    messages = [
        {"role": "system", "content": words("system")},
        {"role": "developer", "content": words("developer")},
        {"role": "user", "content": words("first turn")},
        {"role": "assistant", "content": words("answer")},
        {"role": "user", "content": words("turn before")},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": part if place == "result part" else words("result")},
        {"role": "user", "content": [{"type": "text", "text": words("part")}, {"type": "text", "text": "and"}]},
        {"role": "user", "content": words("last turn")},
    ]
    skipped = draw(st.sets(st.sampled_from([0, 1, 3, 7]), max_size=4))
    needed = {"system": 0, "developer": 1, "answer": 3, "part": 7}
    messages = [one for at, one in enumerate(messages) if at not in skipped or at == needed.get(place)]
    return Request(route, place, is_bad, messages, _beside(place, mark))


def _beside(place, mark):
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    if place == "tool words":
        return {"tools": [{"type": "function", "function": {**function, "description": mark}}]}
    if place == "tool schema":
        schema = {"type": "object", "properties": {"a": {"enum": [mark]}}}
        return {"tools": [{"type": "function", "function": {**function, "parameters": schema}}]}
    if place == "hosted tool":
        return {"tools": [{"type": "file_search", "filters": {"key": [mark]}}]}
    if place == "form":
        schema = {"type": "object", "description": mark}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}}
    return {}


def check_request(app, drawn):
    """Send one request, look at what the upstream and the client get, and return whether it was stopped."""
    if drawn.route in WAYS:
        return _check_way(app, drawn)
    if drawn.route == GUARD:
        wire = app.send({"messages": drawn.messages, **drawn.beside}, GUARD)
        stopped = wire.json["verdict"]["action"] == "refuse"
        assert stopped == (not wire.json["messages"])
    else:
        body = {"input_type": "request", "structured_messages": drawn.messages, "tools": drawn.beside.get("tools")}
        form = [str(drawn.beside["response_format"])] if "response_format" in drawn.beside else []
        texts = [one["content"] for one in drawn.messages if isinstance(one["content"], str)]
        wire = app.send({**body, "texts": texts + form}, LITELLM)
        stopped = wire.json["action"] == "BLOCKED"
    assert wire.status == 200
    assert stopped == drawn.is_bad
    assert not stopped or BLOCKME.encode() not in wire.raw
    assert not app.bodies
    return stopped


def _check_way(app, drawn):
    fine = [event({"content": "fine"}), event(finish="stop"), DONE]
    if drawn.route.stream:
        app.plays(fine, "text/event-stream")
    else:
        app.plays_json(completion())
    wire = app.send(drawn.route.body(messages=drawn.messages, **drawn.beside), drawn.route.path)
    assert wire.status == 200
    assert BLOCKME.encode() not in wire.raw
    if drawn.is_bad:
        assert wire.ends == ["content_filter"]
        assert not app.bodies
        return True
    assert (wire.said, wire.ends) == ("fine", ["stop"])
    [sent] = app.bodies
    assert sent.count(HARMLESS.encode()) == 1
    return False
