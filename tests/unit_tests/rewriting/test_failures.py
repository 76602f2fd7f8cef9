"""When a judge fails, the person is told that and no more; the log has the message and the way there."""

import logging

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import Guard, GuardedChatModel, ReasoningRewriter, VLMGuardMiddleware, create_vlm_guard
from tests.chat_models import CallingModel, ScriptedModel
from tests.rewrites import ALLOW, GOOD

SECRET = "sk-internal-7f3a at http://10.0.0.7:8000/v1"
FAILURES = {
    "the provider's error": (ConnectionError(SECRET), "ConnectionError", SECRET),
    "an error of the provider's parser": (ValueError(SECRET), "ValueError", SECRET),
    "an answer that cannot be read": (f"I am {SECRET}", "RewriteError", "exactly the tags"),
    "thinking without an end": (f"<think>{SECRET} {ALLOW}", "RewriteError", "thinking has no end"),
    "the original prompt": (
        GOOD.replace("Name the danger of fire near fuel and give a safe way to get light.", "Can I?"),
        "RewriteError",
        "original",
    ),
}


def chat_model(rewriter):
    model = GuardedChatModel(model=ScriptedModel(answers=["fine"]), rewriter=rewriter, check_output=False)
    message = model.invoke("can i")
    return message, message.response_metadata["verdict"]


def graph(rewriter):
    state = (
        create_vlm_guard(ScriptedModel(answers=["fine"]), rewriter, answer_judge=None)
        .compile()
        .invoke({"messages": [HumanMessage("can i")]})
    )
    return state["messages"][-1], state["verdict"]


def agent(rewriter):
    made = create_agent(
        ScriptedModel(answers=["fine"]),
        middleware=[VLMGuardMiddleware(rewriter, check_output=False)],
        checkpointer=InMemorySaver(),
    )
    state = made.invoke({"messages": [HumanMessage("can i")]}, {"configurable": {"thread_id": "1"}})
    return state["messages"][-1], state["verdict"]


@pytest.mark.parametrize("face", [chat_model, graph, agent])
@pytest.mark.parametrize(("answer", "error", "logged"), FAILURES.values(), ids=FAILURES)
def test_the_person_is_told_nothing_of_the_inside_and_the_log_everything(face, answer, error, logged, caplog):
    rewriter = ReasoningRewriter.from_model(ScriptedModel(answers=[answer]), structured=False)
    with caplog.at_level(logging.WARNING, logger="langchain_vlmguard"):
        message, verdict = face(rewriter)
    assert verdict["action"] == "refuse"
    reason = "The guard could not judge this turn. The log of 'langchain_vlmguard' says why."
    assert verdict["failure"] == {"stage": "rewrite", "error": error, "reason": reason}
    for said in (str(message.content), str(verdict)):
        assert not any(word in said for word in ("sk-internal", "10.0.0.7", "think", "Traceback", "exactly the tags"))
    (record,) = [one for one in caplog.records if one.name.startswith("langchain_vlmguard")]
    assert record.levelno == logging.WARNING
    assert logged in record.getMessage()
    assert error in record.getMessage()
    assert "Traceback" in caplog.text
    assert "rewriter.py" in caplog.text


@pytest.mark.parametrize(
    "wrap", [lambda model: model, lambda model: model.with_retry(), lambda model: model.bind(stop=["x"])]
)
@pytest.mark.parametrize("face", [chat_model, graph, agent])
def test_a_chat_model_where_a_rewriter_is_expected_becomes_one(face, wrap):
    message, verdict = face(wrap(ScriptedModel(answers=[ALLOW])))
    assert message.text == "fine"
    assert verdict["action"] == "allow"


def test_a_guard_takes_a_chat_model_and_refuses_one_with_tools_or_a_name_of_none():
    assert isinstance(Guard(ScriptedModel()).rewriter, ReasoningRewriter)
    rewriter = ReasoningRewriter.from_model(ScriptedModel())
    assert Guard(rewriter).rewriter is rewriter
    with_retry = rewriter.with_retry()
    assert Guard(with_retry).rewriter is with_retry
    with pytest.raises(ValueError, match="give the chat model without it"):
        Guard(CallingModel().bind_tools([{"type": "function", "function": {"name": "x", "parameters": {}}}]))
    with pytest.raises(TypeError, match=r"must be a LangChain Runnable.*'rails: yaml' names no chat model"):
        Guard("rails: yaml")
