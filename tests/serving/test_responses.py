"""The Responses API: another spelling, the same guard. Cases 1, 3, 4, 6, 7, 9, 20 and 24 once more."""

import json

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.serving.rules import BADIMG, BLOCKME, GOODIMG
from tests.serving.running import running, send
from tests.serving.upstream import DONE, completion, event, streamed, whole

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture
def server(up, tmp_path):
    with running(up, tmp_path, keep_alive={"seconds": 10}) as found:
        yield found


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="x", max_retries=2)


def script(stream, message, end="stop"):
    return streamed(event(message, finish=end), DONE) if stream else whole(completion(message, end))


def final(wire):
    """The response, whole or from the end of a stream."""
    return wire.chunks[-1]["response"] if "event-stream" in wire.headers["content-type"] else wire.json


def test_the_real_client_reads_answers_and_streams(up, client):
    found = client.responses.create(model="up", input="hi", instructions="be kind")
    assert (found.output_text, found.status, found.usage.total_tokens) == ("fine", "completed", 5)
    assert [one["role"] for one in up.last.json["messages"]] == ["system", "user"]
    up.script = script("stream", {"content": "fine"})
    with client.responses.stream(model="up", input="hi") as stream:
        kinds = [one.type for one in stream]
        assert stream.get_final_response().output_text == "fine"
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    up.script = whole(completion())
    assert (
        ChatOpenAI(base_url=str(client.base_url), api_key="x", model="up", use_responses_api=True).invoke("hi").text
        == "fine"
    )


def test_tools_and_pictures_go_there_and_back(up, client):
    call = {"index": 0, "id": "u", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    up.script = whole(completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    parts = [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": GOODIMG, "detail": "auto"}]
    first = [{"role": "user", "content": parts}]
    found = client.responses.create(model="up", input=first, tools=[TOOL])
    [asked] = found.output
    assert (asked.type, asked.name, json.loads(asked.arguments)) == ("function_call", "look", {"at": "sky"})
    assert up.last.json["tools"][0]["function"] == {key: value for key, value in TOOL.items() if key != "type"}
    assert up.last.body.count(GOODIMG.encode()) == 1
    up.script = whole(completion())
    output = {"type": "function_call_output", "call_id": asked.call_id, "output": "blue"}
    again = client.responses.create(
        model="up", input=[*first, asked.model_dump(exclude_none=True), output], tools=[TOOL]
    )
    assert again.output_text == "fine"
    assert [one["role"] for one in up.last.json["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.parametrize(
    "given",
    [
        BLOCKME,
        [{"role": "developer", "content": BLOCKME}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": [{"type": "input_image", "image_url": BADIMG}]}],
        [
            {"role": "user", "content": "look"},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": BLOCKME},
        ],
    ],
)
def test_every_place_of_an_input_is_judged(up, server, stream, given):
    wire = send(server.port, {"model": "up", "input": given, "stream": stream}, PATH)
    answer = final(wire)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert answer["output"][0]["content"][0]["refusal"]
    assert not up.requests
    assert BLOCKME.encode() not in wire.raw


@pytest.mark.parametrize(
    "message",
    [
        {"content": BLOCKME},
        {"content": "fine", "reasoning_content": BLOCKME},
        {"content": "fine", "reasoning": BLOCKME},
        {
            "tool_calls": [
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": json.dumps({"a": BLOCKME})}}
            ]
        },
    ],
)
def test_every_place_of_an_output_is_judged(up, server, stream, message):
    up.script = script(stream, message)
    wire = send(server.port, {"model": "up", "input": "hi", "stream": stream}, PATH)
    answer = final(wire)
    assert answer["incomplete_details"] == {"reason": "content_filter"}
    assert [one["type"] for one in answer["output"]] == ["message"]
    assert BLOCKME.encode() not in wire.raw
    up.script = script(stream, {"content": "fine", "reasoning": "hm"})
    wire = send(server.port, {"model": "up", "input": "hi", "stream": stream}, PATH)
    assert [one["type"] for one in final(wire)["output"]] == ["reasoning", "message"]


def test_nothing_is_stored_and_unknown_parameters_are_refused(up, server):
    for given in (
        {"background": True},
        {"previous_response_id": "r"},
        {"store": True},
        {"truncation": "auto"},
        {"conversation": "c"},
    ):
        wire = send(server.port, {"model": "up", "input": "hi", **given}, PATH)
        assert (wire.status, wire.json["error"]["param"]) == (400, next(iter(given)))
    for given in (
        {"colour": 1},
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://127.0.0.1/mcp"}]},
        {"tools": [{"name": "no type"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": 3},
    ):
        assert send(server.port, {"model": "up", "input": "hi", **given}, PATH).status == 400
    for method, path in (
        ("GET", "/resp_1"),
        ("DELETE", "/resp_1"),
        ("POST", "/resp_1/cancel"),
        ("GET", "/resp_1/input_items"),
    ):
        assert send(server.port, b"{}", PATH + path, method=method).status == 404
    assert not up.requests


def test_a_late_error_ends_a_stream_in_its_own_form(up, tmp_path):
    up.script = streamed(0.6, event({"content": "half"}))
    with running(up, tmp_path, keep_alive={"seconds": 0.2}) as server:
        wire = send(server.port, {"model": "up", "input": "hi", "stream": True}, PATH)
        assert [one["type"] for one in wire.chunks] == ["error"]
        assert wire.chunks[0]["code"] == "upstream_failed"
        assert b"half" not in wire.raw
