"""A chat through the server: real clients, both modes, the same words."""

import json

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.serving.rules import BLOCKME, MASKME
from tests.serving.running import asks, send
from tests.serving.upstream import DONE, USAGE, completion, event, streamed, whole


def script(*, stream, text="fine", **message):
    if not stream:
        return whole(completion({"content": text, **message}))
    return streamed(
        event({"role": "assistant"}), event({"content": text, **message}), event(finish="stop"), USAGE, DONE
    )


def test_an_answer_comes_out_whole_and_once(up, server, stream):
    up.script = script(stream=stream)
    wire = send(server.port, asks(stream=stream))
    assert wire.status == 200
    assert (wire.said, wire.ends) == ("fine", ["stop"])
    assert wire.headers["x-vlmguard-action"] == "allow"
    told = wire.chunks[-1]["vlmguard"] if stream else wire.json["vlmguard"]
    assert (told["action"], told["answer"], told["pictures"]) == ("allow", "released", {"seen": 0, "forwarded": 0})
    assert up.last.json["messages"] == [{"role": "user", "content": "hi"}]
    if stream:
        assert wire.data[-1] == "[DONE]"


def test_a_harmful_request_reaches_no_model(up, server, stream):
    wire = send(server.port, asks(f"do {BLOCKME}", stream=stream))
    assert wire.status == 200
    assert wire.ends == ["content_filter"]
    assert "can't help" in wire.said
    assert not up.requests
    assert BLOCKME.encode() not in wire.raw


def test_a_harmful_answer_stays_in(up, server, stream):
    up.script = script(stream=stream, text=f"ok {BLOCKME}")
    wire = send(server.port, asks(stream=stream))
    assert wire.ends == ["content_filter"]
    assert BLOCKME.encode() not in wire.raw
    assert len(up.requests) == 1


def test_a_rewritten_prompt_is_what_the_model_gets(up, server, stream):
    up.script = script(stream=stream)
    wire = send(server.port, asks(f"say {MASKME}", stream=stream))
    assert wire.said == "fine"
    assert up.last.json["messages"] == [{"role": "user", "content": "say [X]"}]
    assert MASKME not in up.last.body.decode()


def test_the_openai_client_reads_answers_streams_and_refusals(up, server):
    client = openai.OpenAI(base_url=server.url, api_key="x", max_retries=2)
    messages = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model="up", messages=messages)
    assert answer.choices[0].message.content == "fine"
    assert (answer.usage.total_tokens, answer.vlmguard["action"]) == (5, "allow")
    up.script = script(stream=True)
    parts = [*client.chat.completions.create(model="up", messages=messages, stream=True)]
    assert "".join(c.delta.content or "" for one in parts for c in one.choices) == "fine"
    messages[0]["content"] = BLOCKME
    refused = client.chat.completions.create(model="up", messages=messages).choices[0]
    assert refused.message.refusal
    assert refused.finish_reason == "content_filter"
    with pytest.raises(openai.ContentFilterFinishReasonError):
        client.chat.completions.parse(model="up", messages=messages, response_format={"type": "json_object"})
    assert [one.id for one in client.models.list()] == ["up"]


def test_langchain_openai_talks_to_it_unchanged(up, server):
    model = ChatOpenAI(base_url=server.url, api_key="x", model="up")
    assert model.invoke("hi").text == "fine"
    up.script = script(stream=True)
    assert "".join(one.text for one in model.stream("hi")) == "fine"


def test_tools_go_through_and_calls_come_back(up, server, stream):
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}
    call = {"id": "call_up", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    up.script = whole(completion({"content": None, "tool_calls": [call]}, "tool_calls"))
    if stream:
        pieces = [
            {"index": 0, **call, "function": {"name": "look", "arguments": '{"at"'}},
            {"index": 0, "function": {"arguments": ': "sky"}'}},
        ]
        up.script = streamed(*(event({"tool_calls": [one]}) for one in pieces), event(finish="tool_calls"), DONE)
    wire = send(server.port, asks(stream=stream, tools=[tool], tool_choice="auto"))
    message = wire.chunks[0]["choices"][0]["delta"] if stream else wire.json["choices"][0]["message"]
    [found] = message["tool_calls"]
    assert json.loads(found["function"]["arguments"]) == {"at": "sky"}
    assert wire.ends == ["tool_calls"]
    assert up.last.json["tools"] == [tool]
    assert up.last.json["messages"] == [{"role": "user", "content": "hi"}]
    assert "Looks." in server.rules.asked[0]
    # The call and its result go back as they came, and the result is judged.
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_up", "content": "blue"},
    ]
    up.script = script(stream=stream)
    assert send(server.port, asks(stream=stream, tools=[tool]) | {"messages": history}).said == "fine"
    assert [one["role"] for one in up.last.json["messages"]] == ["user", "assistant", "tool"]
    assert up.last.json["messages"][2] == history[2]
