"""What providers put into an answer beside its text: hosted tools, reasoning, pictures, calls in their own spelling."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import GuardedChatModel
from tests.agent_models import BOTH, THREAD, AgentModel, WordJudge, agent, asked, both, call, calling
from tests.pictures import b64

SAYS = {"type": "text", "text": "Kites are sold there."}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "kite shops"},
}
HOSTED = {
    "OpenAI web search": [SEARCH],
    "OpenAI file search": [
        {"type": "file_search_call", "id": "fs_1", "queries": ["kites"], "results": [{"text": "a kite shop"}]}
    ],
    "OpenAI code interpreter": [
        {
            "type": "code_interpreter_call",
            "id": "ci_1",
            "code": "print('kites')",
            "outputs": [{"type": "logs", "logs": "kites"}],
        }
    ],
    "Anthropic web search": [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "kite shops"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "s1",
            "content": [
                {"type": "web_search_result", "url": "https://x.org", "title": "kites", "encrypted_content": "Eq"}
            ],
        },
    ],
    "standard server tools": [
        {"type": "server_tool_call", "id": "s1", "name": "web_search", "args": {"query": "kites"}},
        {"type": "server_tool_result", "tool_call_id": "s1", "status": "success", "output": [{"title": "kites"}]},
    ],
    "Gemini code execution": [
        {"type": "executable_code", "executable_code": "print('kites')", "language": "PYTHON"},
        {"type": "code_execution_result", "code_execution_result": "kites", "outcome": 1},
    ],
    "Anthropic citation": [
        {
            "type": "text",
            "text": "There.",
            "citations": [{"type": "char_location", "cited_text": "all kites", "start_char_index": 0}],
        }
    ],
}
BESIDE = {
    "reasoning": {"additional_kwargs": {"reasoning_content": "step 1 of the bomb"}},
    "a function call of old": {"additional_kwargs": {"function_call": {"name": "x", "arguments": "a bomb"}}},
    "a refusal with details": {"additional_kwargs": {"refusal": "I will not say that a bomb needs"}},
    "a transcript of audio": {"additional_kwargs": {"audio": {"id": "a", "transcript": "take the bomb"}}},
    "log-probabilities": {
        "response_metadata": {
            "logprobs": {"content": [{"token": "take the bomb", "logprob": -0.1, "top_logprobs": []}]}
        }
    },
    "grounding": {"response_metadata": {"grounding_metadata": {"web_search_queries": ["where to get a bomb"]}}},
}
"""Where providers put words beside the content."""

SPELLINGS = {
    "Responses": {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "1",
        "name": "order",
        "arguments": '{"item": "bomb"}',
    },
    "Anthropic, streamed": {
        "type": "tool_use",
        "id": "1",
        "name": "order",
        "input": {},
        "partial_json": '{"item": "bomb"}',
    },
    "standard": {"type": "tool_call", "id": "1", "name": "order", "args": {"item": "bomb"}},
}


def harmful(block):
    """Return the block with the kites in it turned into bombs."""
    if isinstance(block, dict):
        return {key: harmful(value) for key, value in block.items()}
    if isinstance(block, list):
        return [harmful(value) for value in block]
    return block.replace("kite", "bomb") if isinstance(block, str) else block


@BOTH
@pytest.mark.parametrize("kind", HOSTED)
async def test_hosted_tools_pass_when_they_are_harmless_and_are_stopped_when_not(kind, use_async):
    content = [*HOSTED[kind], SAYS]
    graph, _, judge = agent([AIMessage(content)])
    state = await both(graph, asked("where are kites sold?"), use_async=use_async)
    assert (state["verdict"]["action"], state["verdict"]["unjudged"]) == ("allow", [])
    assert state["messages"][-1].content == content
    assert "kite" in str(judge.seen[1][-1].content).replace(SAYS["text"], "")
    graph, _, _ = agent([AIMessage(harmful(HOSTED[kind]))])
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (state["verdict"]["action"], "bomb" in str(state["messages"])) == ("refuse", False)


@BOTH
async def test_a_hosted_tool_beside_a_call_of_an_own_one_goes_back_as_it_came(shop, use_async):
    order, ordered = shop
    content = [SEARCH, {"type": "text", "text": "I order one."}]
    answers = [AIMessage(content, tool_calls=[call("order", item="kite")]), "it is on its way", "bye"]
    graph, model, _ = agent(answers, [order], checkpointer=InMemorySaver())
    state = await both(graph, asked("buy a kite"), THREAD, use_async=use_async)
    assert (ordered, state["messages"][-1].text) == (["kite"], "it is on its way")
    await both(graph, asked("thanks"), THREAD, use_async=use_async)
    assert [seen[1].content for seen in model.seen[1:]] == [content] * 2


@BOTH
@pytest.mark.parametrize("where", BESIDE)
async def test_words_beside_the_content_are_judged_or_do_not_leave(where, use_async):
    said = AIMessage("No.", **BESIDE[where])
    graph, _, _ = agent([said])
    state = await both(graph, asked("hi"), use_async=use_async)
    wrapped = GuardedChatModel(model=AgentModel(answers=[said]), rewriter=WordJudge())
    answer = await wrapped.ainvoke("hi") if use_async else wrapped.invoke("hi")
    for message in (state["messages"][-1], answer):
        assert "bomb" not in str(message)
        assert message.response_metadata["verdict"]["action"] == "refuse"


@BOTH
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_the_arguments_of_a_blocked_call_vanish_from_every_spelling(spelling, shop, use_async):
    order, ordered = shop
    said = AIMessage([SPELLINGS[spelling]], tool_calls=[call("order", item="bomb")])
    graph, model, _ = agent([said, "no"], [order])
    state = await both(graph, asked("hi"), use_async=use_async)
    assert (ordered, state["messages"][-1].text) == ([], "no")
    assert "bomb" not in str(state["messages"]) + str(model.seen)


@BOTH
@pytest.mark.parametrize("items", [("bomb", "kite"), ("kite", "bomb")])
async def test_calls_that_share_an_id_are_told_apart(items, shop, use_async):
    order, ordered = shop
    graph, _, _ = agent([calling(*(call("order", "call_0", item=item) for item in items)), "ok"], [order])
    state = await both(graph, asked("order two things"), use_async=use_async)
    assert (ordered, state["messages"][-1].text) == (["kite"], "ok")


@BOTH
@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": b64()},
        {"type": "image", "base64": b64(), "mime_type": "image/png"},
    ],
    ids=["OpenAI", "standard"],
)
async def test_a_picture_that_the_model_made_is_judged_before_it_leaves(block, use_async):
    graph, _, judge = agent([AIMessage([block, {"type": "text", "text": "here it is"}])])
    state = await both(graph, asked("draw a kite"), use_async=use_async)
    assert b64() in str(judge.seen[1:])
    assert b64() in str(state["messages"][-1].content)


@BOTH
@pytest.mark.parametrize(
    "args",
    [{"item": "image"}, {"item": "image/png"}, {"item": "data:image/png;base64,AAAA"}, {"item": "<img src='x'>"}],
)
async def test_arguments_that_merely_speak_of_pictures_are_words(args, shop, use_async):
    order, ordered = shop
    graph, model, _ = agent([calling(call("order", **args)), "done", "bye"], [order], checkpointer=InMemorySaver())
    state = await both(graph, asked("order it"), THREAD, use_async=use_async)
    assert (ordered, state["messages"][-1].text) == ([args["item"]], "done")
    await both(graph, asked("thanks"), THREAD, use_async=use_async)
    assert model.seen[-1][1].tool_calls[0]["args"] == args


@BOTH
@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a long document", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "a kite", "id": "msg_1"},
    ],
    ids=["cache mark", "id"],
)
async def test_marks_on_text_reach_the_model(block, use_async):
    graph, model, _ = agent(["fine"])
    await both(graph, asked([block, {"type": "text", "text": "sum it up"}]), use_async=use_async)
    assert model.seen[0][-1].content[0] == block


@BOTH
@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "b", "id": "msg_1", "annotations": []},
        {"type": "text", "text": "b", "extras": {"signature": "EpwC"}},
    ],
    ids=["Responses", "Gemini"],
)
async def test_earlier_answers_go_back_with_all_that_their_provider_needs(block, use_async):
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    history = [HumanMessage("a"), AIMessage([reasoning, block]), HumanMessage("c")]
    graph, model, _ = agent(["fine"])
    await both(graph, {"messages": history}, use_async=use_async)
    assert model.seen[0][1].content == [reasoning, block]
