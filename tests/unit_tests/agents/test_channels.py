"""What each channel shows: the table of docs/agents.md, cell by cell."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers import BaseTracer
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import VLMGuardMiddleware
from tests.agent_models import AgentModel, WordJudge, call, calling
from tests.pictures import READABLE, png
from tests.pictures import b64 as encoded

THREAD = {"configurable": {"thread_id": "1"}}
PROMPT = "how do i stay safe?"
"""The rewritten prompt."""

SCENES = {
    "refused input": ("RAWINPUT bomb", ["fine"]),
    "rewritten input": ("RAWINPUT knife", ["fine"]),
    "withheld answer": ("hello", ["RAWOUTPUT bomb"]),
    "denied call": ("hello", [calling(call("order", item="RAWCALL bomb")), "fine"]),
    "withheld result": ("hello", [calling(call("order", item="kite")), "fine"]),
}
MODES = ["values", "updates", "messages", "custom"]


PAGE = (Path(__file__).parents[3] / "docs/agents.md").read_text()
TABLE = {
    row[0]: dict(zip(("raw input", "rewritten prompt", "raw output", "verdict"), row[1:], strict=True))
    for row in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.partition("Does it appear there?")[2]
        .partition("\n\n")[2]
        .partition("\n\n")[0]
        .splitlines()[2:]
    )
}
"""The table of the page: channel, then what appears there."""

ROWS = {
    "state": "state, `values`",
    **{mode: "state, `values`" if mode == "values" else f"`{mode}`" for mode in MODES},
    "v2": "v2 events (`astream_events`)",
    "v3": "v3 events (`stream_events`)",
    "checkpoints": "checkpoints",
    "callbacks": "callbacks, tracers",
}
"""Channels that are looked at, and the row of the table that speaks of each."""


class Watcher(BaseCallbackHandler):
    """Everything that callbacks are told."""

    run_inline = True

    def __init__(self):
        self.heard = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.heard.append(messages)

    def on_llm_new_token(self, token, **kwargs):
        self.heard.append(token)

    def on_llm_end(self, response, **kwargs):
        self.heard.append(response)


class Traces(BaseTracer):
    """A tracer as LangSmith's: it keeps whole runs."""

    def __init__(self):
        super().__init__()
        self.runs = []

    def _persist_run(self, run):
        self.runs.append(run)


def values(run):
    return [run.inputs, run.outputs, *map(values, run.child_runs)]


class Received(BaseHTTPRequestHandler):
    """Keeps what a tracer's client sends."""

    def _answer(self):
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Received)
    server.bodies = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def build(scene, checkpointer=None):
    asked, answers = SCENES[scene]

    @tool
    def order(item: str) -> str:
        """Order."""
        return "RAWRESULT bomb" if scene == "withheld result" else "ordered"

    model = AgentModel(answers=answers)
    agent = create_agent(model, [order], middleware=[VLMGuardMiddleware(WordJudge())], checkpointer=checkpointer)
    return agent, {"messages": [HumanMessage(asked)]}


RAW = ("RAWOUTPUT", "RAWCALL", "RAWRESULT")


async def streamed(agent, given, use_async, **options):
    if use_async:
        return [part async for part in agent.astream(given, THREAD, **options)]
    return list(agent.stream(given, THREAD, **options))


async def shown(channel, scene, *, use_async):
    """Return everything that a channel shows of a run, as text."""
    saver, observers = InMemorySaver(), [Watcher(), Traces()]
    agent, given = build(scene, saver)
    if channel in MODES:
        return str(await streamed(agent, given, use_async, stream_mode=channel))
    if channel in ("v2", "v3"):
        return str(await events_of(agent, given, channel, use_async))
    config = {**THREAD, "callbacks": observers}
    state = await agent.ainvoke(given, config) if use_async else agent.invoke(given, config)
    kept = [list(saver.list(THREAD)), saver.blobs, saver.writes]
    heard = [observers[0].heard, [values(run) for run in observers[1].runs]]
    return str({"state": state, "checkpoints": kept, "callbacks": heard}[channel])


async def events_of(agent, given, version, use_async):
    if version == "v2":
        return [event async for event in agent.astream_events(given, THREAD, version="v2")]
    if use_async:
        return [event async for event in await agent.astream_events(given, THREAD, version="v3")]
    return list(agent.stream_events(given, THREAD, version="v3"))


def says_yes(cell, scene):
    """Read a cell of the table."""
    if cell.startswith("answers and calls no"):
        return scene == "withheld result"
    return not cell.strip("*").startswith("no")


def test_the_table_has_a_row_for_every_channel():
    assert set(TABLE) == set(ROWS.values())


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("channel", ROWS)
async def test_every_cell_of_the_table_is_what_happens(channel, scene, use_async):
    cells, seen = TABLE[ROWS[channel]], await shown(channel, scene, use_async=use_async)
    assert ("RAWINPUT" in seen) == ("input" in scene and says_yes(cells["raw input"], scene))
    assert (PROMPT in seen) == (scene == "rewritten input" and says_yes(cells["rewritten prompt"], scene))
    assert bool(re.search("RAW(OUTPUT|CALL|RESULT)", seen)) == (
        "input" not in scene and says_yes(cells["raw output"], scene)
    )
    assert bool(re.search(r"['\"]action['\"]: ", seen)) == says_yes(cells["verdict"], scene)


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scene", SCENES)
async def test_no_stream_shows_what_was_stopped_and_each_shows_the_verdict(scene, mode, version, use_async):
    agent, given = build(scene)
    seen = str(await streamed(agent, given, use_async, stream_mode=mode, version=version))
    assert not [raw for raw in RAW if raw in seen]
    assert ("RAWINPUT" in seen) == ("input" in scene and mode == "values")
    if mode in ("values", "updates", "custom"):
        assert "'action': '" in seen
        assert (PROMPT in seen) == (scene == "rewritten input")
    if mode == "custom":
        assert "vlmguard.verdict" in seen


@pytest.mark.parametrize("scene", SCENES)
async def test_v2_events_show_nothing_that_was_stopped_and_whatever_was_let_out(scene):
    agent, given = build(scene)
    events = [event async for event in agent.astream_events(given, THREAD, version="v2")]
    assert not [raw for raw in RAW if raw in str(events)]
    tokens = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    answers = [event["data"]["output"].text for event in events if event["event"] == "on_chat_model_end"]
    shown = "".join(tokens)
    assert shown == "".join(answers) == agent.invoke(given)["messages"][-1].text
    assert (shown == "fine") == (scene not in ("refused input", "withheld answer"))
    ends = [event["data"]["output"] for event in events if event["event"] == "on_tool_end"]
    assert [end.status for end in ends] == (["error"] if scene == "withheld result" else [])


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scene", SCENES)
async def test_v3_events_show_nothing_that_was_stopped_and_the_verdicts(scene, use_async):
    agent, given = build(scene)
    if use_async:
        run = await agent.astream_events(given, THREAD, version="v3")
        verdicts = [record async for record in run.extensions["verdicts"]]
        events = [event async for event in (await build(scene)[0].astream_events(given, THREAD, version="v3"))]
    else:
        run = agent.stream_events(given, THREAD, version="v3")
        verdicts = list(run.extensions["verdicts"])
        events = list(build(scene)[0].stream_events(given, THREAD, version="v3"))
    assert not [raw for raw in RAW if raw in str(events)]
    assert verdicts
    assert {record["type"] for record in verdicts} == {"vlmguard.verdict"}


@pytest.mark.parametrize("scene", SCENES)
def test_the_final_state_shows_nothing_that_was_stopped(scene):
    agent, given = build(scene)
    state = str(agent.invoke(given))
    assert not [raw for raw in RAW if raw in state]
    assert ("RAWINPUT" in state) == ("input" in scene)


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("scene", SCENES)
def test_checkpoints_hold_no_stopped_output_and_the_raw_input_always(scene, durability):
    saver = InMemorySaver()
    agent, given = build(scene, saver)
    agent.invoke(given, THREAD, durability=durability)
    kept = str(list(saver.list(THREAD))) + str(saver.blobs) + str(saver.writes)
    assert not [raw for raw in RAW if raw in kept]
    assert ("RAWINPUT" in kept) == ("input" in scene)


def test_replacing_and_durability_exit_keep_the_raw_input_out_of_checkpoints():
    for durability, kept_there in (("exit", False), ("async", True)):
        saver = InMemorySaver()
        guard = VLMGuardMiddleware(WordJudge(), exit_behavior="replace")
        agent = create_agent(AgentModel(), middleware=[guard], checkpointer=saver)
        agent.invoke({"messages": [HumanMessage("RAWINPUT bomb")]}, THREAD, durability=durability)
        kept = str(list(saver.list(THREAD))) + str(saver.blobs) + str(saver.writes)
        assert ("RAWINPUT" in kept) == kept_there


@pytest.mark.parametrize("scene", SCENES)
def test_callbacks_and_tracers_see_the_models_own_calls(scene):
    """Observers are told what the model said: they are the application's own, and no stream."""
    watcher, traces = Watcher(), Traces()
    agent, given = build(scene)
    agent.invoke(given, {"callbacks": [watcher, traces]})
    heard, traced = str(watcher.heard), str([values(run) for run in traces.runs])
    assert ("RAWOUTPUT" in heard) == (scene == "withheld answer")
    assert ("RAWOUTPUT" in traced) == (scene == "withheld answer")
    assert ("RAWINPUT" in traced) == ("input" in scene)
    assert "'action': '" in traced


@pytest.mark.parametrize("hide", [False, True])
def test_traces_hold_base64_unless_the_application_hides_it(hide, collector):
    """What the docs say to set, with LangSmith's own client and tracer sending to a server of ours."""
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    picture = {**READABLE["v1 image"], "base64": encoded(png("blue", (9, 9)))}
    address = f"http://127.0.0.1:{collector.server_port}"
    client = Client(api_key="none", api_url=address, auto_batch_tracing=False, hide_inputs=hide, hide_outputs=hide)
    agent = create_agent(AgentModel(), middleware=[VLMGuardMiddleware(WordJudge())])
    tracer = LangChainTracer(client=client)
    agent.invoke({"messages": [HumanMessage([picture])]}, {"callbacks": [tracer]})
    tracer.wait_for_futures()
    sent = "".join(collector.bodies)
    assert "VLMGuardMiddleware" in sent
    assert (picture["base64"] in sent) != hide


def test_custom_events_are_plain():
    agent, given = build("denied call")
    events = list(agent.stream(given, stream_mode="custom"))
    assert json.loads(json.dumps(events)) == events
    assert [(event["stage"], event["verdict"]["action"]) for event in events] == [
        ("input", "allow"),
        ("tool_args", "refuse"),
        ("output", "allow"),
    ]
