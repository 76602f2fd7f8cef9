"""Pictures in an agent's turn and in its tools' results: read in every spelling, fetched once, refused when unreadable."""

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import ChatSteeredVLM, EvidenceReader, GuardPolicy, PictureFetcher, VLMGuardMiddleware
from langchain_vlmguard.content.messages import read_turn
from langchain_vlmguard.guard.stopped import WITHHELD
from tests.agent_models import BOTH, AgentModel, WordJudge, agent, asked, both, call, calling
from tests.picture_server import picture_server, trusting
from tests.pictures import READABLE, UNREADABLE
from vlmguard_lab.testbed.requests import Cell

HOST = "pictures.test"


def picture_in(message):
    [found] = [block for block in message.content if isinstance(block, dict) and block.get("type") == "image"]
    return found


def looking(content):
    """An agent's tool that returns this content."""

    @tool
    def look() -> list:
        """Look."""
        return content

    return look


@BOTH
@pytest.mark.parametrize("spelling", READABLE)
async def test_every_spelling_of_a_picture_is_judged_and_the_model_gets_what_was_judged(spelling, use_async):
    graph, model, judge = agent(["fine"])
    await both(graph, asked([READABLE[spelling], "look"]), use_async=use_async)
    judged, shown = picture_in(judge.seen[0][-1]), model.seen[0][-1]
    assert [p.picture.block() for p in read_turn([shown]).pictures] == [judged]
    assert "Image.Image" not in str(model.seen)


@BOTH
@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_picture_that_cannot_be_read_is_refused_with_the_reason(kind, use_async):
    block, reason = UNREADABLE[kind]
    graph, model, judge = agent(["fine"])
    state = await both(graph, asked([block, "look"]), use_async=use_async)
    assert (state["verdict"]["action"], model.seen, judge.seen) == ("refuse", [], [])
    assert reason in state["verdict"]["unjudged"][0]["reason"]
    assert state["verdicts"][0]["verdict"] == state["verdict"]


@pytest.fixture(scope="module")
def server():
    with picture_server(HOST) as running:
        yield running


@BOTH
@pytest.mark.parametrize("from_tool", [False, True], ids=["turn", "tool"])
async def test_a_picture_by_address_is_fetched_once_and_judge_and_model_see_the_same(server, from_tool, use_async):
    """The server answers with another picture each time; a mocked client would not have noticed."""
    server.asked.clear()
    host = f"{HOST}:{server.server_port}"
    block = {"type": "image_url", "image_url": {"url": f"https://{host}/other_each_time"}}
    fetcher = PictureFetcher(
        allow_networks=("127.0.0.1/32",), ssl_context=trusting(), resolve=lambda *_: ["127.0.0.1"], seconds=5.0
    )
    graph, model, judge = agent(
        [calling(call("look")), "fine"],
        [looking([block] if from_tool else "nothing")],
        policy=GuardPolicy(image_hosts={host}),
        fetcher=fetcher,
    )
    given = asked("look" if from_tool else [block, "look"])
    state = await both(graph, given, use_async=use_async)
    assert server.asked == ["/other_each_time"]
    at = 2 if from_tool else 0
    seen = {picture_in(messages[at])["base64"] for messages in model.seen[from_tool:]}
    assert seen == {picture_in(judge.seen[at][-1])["base64"]}
    assert "https://" not in str(state["messages"])


DRAWN = {harmful: Cell("drawn", "poster", harmful=harmful).sample(1, seed=3)[0] for harmful in (True, False)}
"""Requests whose words are only in the picture."""


@pytest.fixture(scope="module")
def reads(testbed):
    """A guard without a rewriter: what decides is what stands in the picture, read by OCR and judged by the testbed."""
    pytest.importorskip("rapidocr", reason="needs rapidocr (extra `evidence`)")
    judge, reader = ChatSteeredVLM.from_loaded(testbed), EvidenceReader()

    def build(model, tools=(), **options):
        return create_agent(
            model, list(tools), middleware=[VLMGuardMiddleware(evidence=reader, judge=judge)], **options
        )

    return build


def test_without_evidence_nothing_would_stop_them():
    model, unread = AgentModel(), VLMGuardMiddleware(WordJudge(), policy=GuardPolicy(rewrite="never"))
    create_agent(model, middleware=[unread]).invoke({"messages": [DRAWN[True].message()]})
    assert len(model.seen) == 1


@BOTH
@pytest.mark.parametrize(("harmful", "action"), [(True, "refuse"), (False, "allow")])
async def test_harm_that_is_only_drawn_in_the_turns_picture_is_read_and_refused(reads, harmful, action, use_async):
    model = AgentModel()
    state = await both(reads(model), {"messages": [DRAWN[harmful].message()]}, use_async=use_async)
    verdict = state["verdict"]
    assert (verdict["action"], len(model.seen)) == (action, int(not harmful))
    assert verdict["evidence"][0]["kind"] == "text"
    assert (verdict["evidence_risk"] >= 0.7) == harmful
    assert "rapidocr" in verdict["provenance"]["evidence"].lower()


@BOTH
@pytest.mark.parametrize(("harmful", "status"), [(True, "error"), (False, "success")])
async def test_harm_that_is_only_drawn_in_a_tools_picture_never_reaches_the_model(reads, harmful, status, use_async):
    shown = picture_in(DRAWN[harmful].message())
    model = AgentModel(answers=[calling(call("look")), "done"])
    state = await both(reads(model, [looking([shown])]), asked("look around"), use_async=use_async)
    result = state["messages"][2]
    assert (result.status, state["messages"][-1].text) == (status, "done")
    assert ("base64" in str(model.seen[-1])) == (not harmful)
    [record] = [one for one in state["verdicts"] if one["stage"] == "tool_result"]
    assert (record["verdict"]["action"] == "refuse") == harmful
    assert record["verdict"]["evidence"][0]["where"].startswith("messages[")


@BOTH
async def test_a_picture_that_was_refused_stays_out_of_later_turns_and_the_thread_goes_on(reads, use_async):
    model = AgentModel()
    graph, thread = reads(model, checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
    refused = await both(graph, {"messages": [DRAWN[True].message()]}, thread, use_async=use_async)
    assert (refused["verdict"]["action"], model.seen) == ("refuse", [])
    state = await both(graph, asked("and what is a kite ?"), thread, use_async=use_async)
    assert (state["verdict"]["action"], state["messages"][-1].text) == ("allow", "fine")
    assert model.seen[0][0].content == WITHHELD
    assert "base64" not in str(model.seen)
