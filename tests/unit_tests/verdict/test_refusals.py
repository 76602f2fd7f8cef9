"""A refusal says so in words, and in the block that LangChain's parsers honour where core knows it."""

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser

from langchain_vlmguard import GuardedChatModel, ReasoningRewriter, VLMGuardMiddleware, create_vlm_guard
from langchain_vlmguard.verdict.refusals import KNOWN, in_plain_words
from tests.chat_models import ScriptedModel
from tests.rewrites import ALLOW, GOOD

REFUSE = GOOD.replace("<action>rewrite", "<action>refuse").replace(
    "Name the danger of fire near fuel and give a safe way to get light.", ""
)
PROMPT = [HumanMessage("where is a knife?")]


def rewriter(*answers):
    return ReasoningRewriter.from_model(ScriptedModel(answers=list(answers)))


def by_graph():
    guard = create_vlm_guard(ScriptedModel(), rewriter(REFUSE)).compile()
    return guard.invoke({"messages": PROMPT})["messages"][-1]


def by_model():
    return GuardedChatModel(model=ScriptedModel(), rewriter=rewriter(REFUSE)).invoke(PROMPT)


def by_middleware():
    agent = create_agent(ScriptedModel(), [], middleware=[VLMGuardMiddleware(rewriter(REFUSE))])
    return agent.invoke({"messages": PROMPT})["messages"][-1]


FACES = pytest.mark.parametrize("face", [by_graph, by_model, by_middleware])


@FACES
def test_the_words_are_the_same_with_and_without_the_block(face):
    message = face()
    assert message.text.startswith("I can't help with this request")
    assert StrOutputParser().invoke(message) == message.text
    blocks = [block for block in message.content_blocks if block["type"] == "refusal"]
    assert [block["refusal"] for block in blocks] == ([message.text] if KNOWN else [])
    assert [block["extras"]["category"] for block in blocks] == (["mlcommons:ncr"] if KNOWN else [])


@FACES
def test_a_parser_hears_that_it_was_refused(face):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which error depends on core
        JsonOutputParser().invoke(face())
    if KNOWN:
        from langchain_core.exceptions import ModelRefusalError

        assert isinstance(caught.value, ModelRefusalError)
        assert "can't help" in str(caught.value)
    else:
        assert isinstance(caught.value, OutputParserException)


def test_the_next_turn_hands_on_plain_words():
    model = ScriptedModel()
    guard = create_vlm_guard(model, rewriter(REFUSE, ALLOW)).compile()
    state = guard.invoke({"messages": PROMPT})
    refusal = state["messages"][-1]
    state = guard.invoke({"messages": [*state["messages"], HumanMessage("and a lamp?")]})
    (seen,) = [message for message in model.seen[0] if isinstance(message, AIMessage)]
    assert seen.content == refusal.text
    assert state["messages"][1].content == refusal.content


def test_a_refusal_without_words_of_its_own_stays():
    bare = AIMessage([{"type": "refusal", "refusal": "no"}])
    assert in_plain_words(bare) is bare
