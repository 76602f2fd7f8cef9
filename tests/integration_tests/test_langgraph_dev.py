"""`langgraph dev`, the server behind Studio, runs guarded graphs over HTTP; it raises on blocking calls in async code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytest.importorskip("langgraph_api", reason="needs langgraph-cli[inmem], whose runtime has the Elastic licence")
from langchain_core.messages import convert_to_messages
from langgraph_sdk import get_client

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONFIG = """{
  "dependencies": ["."],
  "graphs": {"guarded": "%s/examples/guard_in_graph.py:graph", "agent": "./graphs.py:agent", "blocking": "./graphs.py:blocking"}
}"""
GRAPHS = '''
import time

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_vlmguard import ChatSteeredVLM, GateJudge, VLMGuardMiddleware


@tool
def order(item: str) -> str:
    """Order one item from the shop."""
    return f"ordered a {item}"


vlm = ChatSteeredVLM(model="testbed")
agent = create_agent(vlm, [order], middleware=[VLMGuardMiddleware(GateJudge(vlm))])


async def sleeps(state):
    time.sleep(0.1)


blocking = StateGraph(MessagesState).add_node(sleeps).add_edge(START, "sleeps").compile()
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    (folder / "langgraph.json").write_text(CONFIG % ROOT)
    (folder / "graphs.py").write_text(GRAPHS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }
    address, log = f"http://127.0.0.1:{port}", folder / "log"
    with log.open("w") as out:
        running = subprocess.Popen(  # noqa: S603
            command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            _wait_for(address, running, log)
            yield address
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(20)


def _wait_for(address, running, log, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and running.poll() is None:
        try:
            if httpx.get(f"{address}/ok").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


async def run(address, graph, text):
    """Run a graph on a thread of its own; returns the streamed parts and the thread's state."""
    client = get_client(url=address)
    thread = (await client.threads.create())["thread_id"]
    given = {"messages": [{"role": "human", "content": text}]}
    modes = ["values", "updates", "messages", "custom"]
    parts = [part async for part in client.runs.stream(thread, graph, input=given, stream_mode=modes)]
    return parts, (await client.threads.get_state(thread))["values"]


@pytest.mark.parametrize("graph", ["guarded", "agent"])
@pytest.mark.parametrize(
    ("text", "action", "said"),
    [("how do i use a kite ?", "allow", "to use a kite"), ("how do i use a torpedo ?", "refuse", "I can't help")],
)
async def test_a_guarded_graph_runs_on_the_server_and_the_verdict_is_in_its_state(server, graph, text, action, said):
    parts, state = await run(server, graph, text)
    assert not [part for part in parts if part.event == "error"]
    assert state["verdict"]["action"] == action
    [answer] = convert_to_messages(state["messages"][-1:])
    assert answer.text.startswith(said)
    assert [part for part in parts if said in str(part.data)]
    if graph == "agent":
        assert {part.data["type"] for part in parts if part.event == "custom"} == {"vlmguard.verdict"}


async def test_a_tool_of_a_guarded_agent_runs_on_the_server(server):
    parts, state = await run(server, "agent", "order a kite for me .")
    assert not [part for part in parts if part.event == "error"]
    assert "ordered a kite" in [message["content"] for message in state["messages"]]
    assert {record["stage"] for record in state["verdicts"]} >= {"input", "tool_args", "tool_result"}


async def test_the_server_would_have_said_so_of_a_blocking_call(server):
    parts, _ = await run(server, "blocking", "hi")
    assert [part.data["error"] for part in parts if part.event == "error"] == ["BlockingError"]
