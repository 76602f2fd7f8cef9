"""Tools of a real MCP server on loopback, through LangChain's own client: what they return is judged like any result."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("langchain_mcp_adapters")

from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient

from langchain_vlmguard import VLMGuardMiddleware
from tests.agent_models import AgentModel, WordJudge, asked, call, calling

SERVER = Path(__file__).with_name("mcp_server.py")
WORDS = ("text", "resource", "structured", "failing")
PICTURES = ("picture", "picture_resource")


@pytest.fixture(scope="module")
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)], stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


async def results(address, name, args, *middleware):
    """Return the model's requests and the tool's result, of an agent that calls one tool."""
    client = MultiServerMCPClient({"kinds": {"transport": "streamable_http", "url": address}})
    tools = await client.get_tools()
    model = AgentModel(answers=[calling(call(name, **args)), "done"])
    state = await create_agent(model, tools, middleware=middleware).ainvoke(asked("use the tool"))
    assert len(model.seen) == 2
    [result] = [one for one in state["messages"] if isinstance(one, ToolMessage)]
    return model.seen[1], result


def without_ids(value):
    """A value without the ids that the client gives to messages and blocks by chance."""
    if isinstance(value, dict):
        return {key: without_ids(one) for key, one in value.items() if key != "id"}
    if isinstance(value, list):
        return [without_ids(one.model_dump() if isinstance(one, BaseMessage) else one) for one in value]
    return value


def _unjudged(messages):
    """What a model reads of messages: without the guard's verdict, ids, and artifacts, which are for programs."""
    plain = without_ids(messages)
    for one in plain:
        one["response_metadata"].pop("verdict", None)
        one.pop("artifact", None)
    return plain


@pytest.mark.parametrize("name", [*WORDS, *PICTURES])
async def test_harmless_results_reach_the_model_as_they_came(address, name):
    args = {"words": "kites"} if name in WORDS else {}
    plain, raw = await results(address, name, args)
    guarded, result = await results(address, name, args, VLMGuardMiddleware(WordJudge()))
    assert without_ids([result]) == without_ids([raw])
    assert _unjudged(guarded) == _unjudged(plain)


@pytest.mark.parametrize("name", WORDS)
async def test_harmful_results_are_stopped(address, name):
    plain, _ = await results(address, name, {"words": "harm"})
    assert "a bomb" in str(plain)
    guarded, result = await results(address, name, {"words": "harm"}, VLMGuardMiddleware(WordJudge()))
    assert "a bomb" not in str(guarded)
    assert "a bomb" not in str(result)
    assert result.status == "error"
