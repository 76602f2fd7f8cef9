"""A rewriter is made of a chat model, its name, or a chat model under LangChain's wrappers; anything else is refused by name."""

import json
import sys

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool

from langchain_vlmguard import ReasoningRewriter
from langchain_vlmguard.errors import RewriteError
from tests.chat_models import CallingModel, ScriptedModel
from tests.rewrites import ALLOW, GOOD

TURN = [HumanMessage("can i fly a kite?")]
REPORT = {"threats": [], "intent": "a kite", "decision": {"action": "allow", "risk": 0}}
CALL = AIMessage("", tool_calls=[{"name": "Rewrite", "args": REPORT, "id": "1"}])


def calling(*answers):
    return CallingModel(answers=list(answers or [CALL]))


def made(model, **options):
    return ReasoningRewriter.from_model(model, **{"max_retries": 0, **options})


WRAPPERS = {
    "bind": lambda model: model.bind(stop=["x"]),
    "with_config": lambda model: model.with_config(tags=["judge"]),
    "with_retry": lambda model: model.with_retry(stop_after_attempt=2),
    "with_fallbacks": lambda model: model.with_fallbacks([calling()]),
    "bind and with_retry": lambda model: model.bind(stop=["x"]).with_retry(),
    "with_retry and bind": lambda model: model.with_retry().bind(stop=["x"]),
    "with_fallbacks and bind": lambda model: model.with_fallbacks([calling()]).bind(stop=["x"]),
    "bind and with_fallbacks": lambda model: (
        model.bind(stop=["x"]).with_fallbacks([calling()]).with_config(tags=["judge"])
    ),
    "with_types": lambda model: model.with_types(output_type=AIMessage),
    "with_listeners": lambda model: model.with_listeners(on_start=lambda _: None),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
async def test_a_wrapped_model_keeps_its_structured_output_and_its_arguments(wrap):
    model = calling()
    rewriter = made(wrap(model))
    assert rewriter.invoke(TURN).action == (await rewriter.ainvoke(TURN)).action == "allow"
    assert len(model.given) == 2
    for given in model.given:
        assert given["tools"][0]["function"]["name"] == "Rewrite"
        assert given.get("stop") == (["x"] if "stop" in str(wrap(model)) else None)
    assert rewriter.identity == "CallingModel"


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_without_structured_output_is_asked_for_tags(wrap):
    model = ScriptedModel(answers=[ALLOW])
    assert made(wrap(model)).invoke(TURN).action == "allow"
    assert "<threats>" in model.seen[0][0].text


@pytest.mark.parametrize("wrap", [*WRAPPERS.values(), lambda model: model], ids=[*WRAPPERS, "bare"])
def test_a_calls_own_arguments_reach_the_model(wrap):
    model = calling()
    made(wrap(model)).invoke(TURN, temperature=0.5)
    assert model.given[0]["temperature"] == 0.5
    assert model.given[0]["tools"][0]["function"]["name"] == "Rewrite"


def test_retries_and_fallbacks_do_their_work():
    flaky = calling(ConnectionError("gone"), CALL)
    assert made(flaky.with_retry(wait_exponential_jitter=False)).invoke(TURN).action == "allow"
    assert len(flaky.seen) == 2
    broken, other = calling(ConnectionError("gone")), calling()
    assert made(broken.with_fallbacks([other])).invoke(TURN).action == "allow"
    assert len(other.seen) == 1


def test_a_fallback_without_structured_output_makes_all_of_them_write_tags():
    broken, other = calling(ConnectionError("gone")), ScriptedModel(answers=[ALLOW])
    assert made(broken.with_fallbacks([other])).invoke(TURN).action == "allow"
    assert broken.given == [{}]
    assert "<threats>" in other.seen[0][0].text


def test_configurable_models_follow_the_config():
    one, other = ScriptedModel(answers=[ALLOW]), ScriptedModel(answers=[GOOD])
    model = one.configurable_alternatives(ConfigurableField("judge"), other=other)
    assert made(model).invoke(TURN).action == "allow"
    assert made(model).invoke(TURN, {"configurable": {"judge": "other"}}).action == "rewrite"


def test_a_chain_that_ends_in_a_model_is_asked_for_tags():
    model = calling(ALLOW)
    assert made(RunnableLambda(lambda messages: messages[-1:]) | model).invoke(TURN).action == "allow"
    assert made(model | StrOutputParser()).invoke(TURN).action == "allow"
    assert made(FakeListLLM(responses=[ALLOW])).invoke(TURN).action == "allow"


@tool
def weather(place: str) -> str:
    """Say what the weather is."""
    return place


@pytest.mark.parametrize(
    "bound",
    [
        calling().bind_tools([weather]),
        calling().bind_tools([weather]).with_retry(),
        calling().with_fallbacks([calling().bind(response_format={"type": "json_object"})]),
    ],
)
def test_a_model_with_tools_bound_is_refused_with_what_to_do(bound):
    with pytest.raises(ValueError, match=r"bound to it.*give the chat model without it"):
        made(bound)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (weather, "give the chat model"),
        (ChatPromptTemplate.from_messages(["x"]), "give the chat model"),
        (made(ScriptedModel()), "it is a rewriter already"),
        (made(ScriptedModel()).with_retry(), "it is a rewriter already"),
        (ScriptedModel, "not of the class ScriptedModel"),
        (None, "not of NoneType"),
        (lambda messages: "allow", "not of function"),
        (object(), "such as 'openai:gpt-4o'"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_do(given, reason):
    with pytest.raises(TypeError, match=reason):
        ReasoningRewriter.from_model(given)


@pytest.mark.parametrize("name", ["nothing", "nowhere:x", ""])
def test_a_name_of_no_model_is_refused_with_an_example(name):
    with pytest.raises(ValueError, match=r"names no chat model: use 'provider:model', such as 'openai:gpt-4o'"):
        ReasoningRewriter.from_model(name)


def test_a_missing_package_of_a_provider_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_cohere", None)
    with pytest.raises(ImportError, match="langchain-cohere"):
        ReasoningRewriter.from_model("cohere:command")


class Unparsed(CallingModel):
    """A provider whose own parser cannot read the structured answer, and raises without showing it."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if "tools" in kwargs:
            json.loads("<think>")
        return super()._generate(messages, stop, run_manager, **kwargs)


async def test_where_a_providers_own_parser_fails_the_next_attempt_asks_for_tags():
    model = Unparsed(answers=[ALLOW])
    assert made(model, max_retries=1).invoke(TURN).action == "allow"
    assert (await made(model, max_retries=1).ainvoke(TURN)).action == "allow"
    assert "<threats>" in model.seen[0][0].text
    with pytest.raises(RewriteError, match="Expecting value"):
        made(model).invoke(TURN)


def test_other_errors_of_a_model_go_to_the_caller():
    with pytest.raises(ConnectionError, match="gone"):
        made(calling(ConnectionError("gone"))).invoke(TURN)
