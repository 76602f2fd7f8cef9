import pytest
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentAudio,
    ContentImage,
    ContentText,
    GenerateConfig,
)
from inspect_ai.tool import ToolCall, ToolInfo
from langchain_core.messages import HumanMessage
from PIL import Image

from langchain_vlmguard import ReasoningRewriter, create_vlm_guard
from langchain_vlmguard.errors import EvaluationError
from tests.chat_models import ScriptedModel
from tests.rewrites import ALLOW
from vlmguard_lab.evaluation.provider import LangChainAPI, as_inspect_model, to_langchain, to_output


@pytest.fixture
def png(tmp_path):
    Image.new("RGB", (4, 4), "white").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_every_role_is_translated(png):
    user = ChatMessageUser(content=[ContentImage(image=str(png)), ContentText(text="what?")])
    calling = ChatMessageAssistant(content="", tool_calls=[ToolCall(id="1", function="order", arguments={"item": "x"})])
    messages = [ChatMessageSystem(content="be"), user, calling, ChatMessageTool(content="done", tool_call_id="1")]
    system, human, ai, tool = map(to_langchain, messages)
    assert (system.type, human.type, ai.type, tool.type) == ("system", "human", "ai", "tool")
    assert [block["type"] for block in human.content] == ["image", "text"]
    assert human.content[0]["mime_type"] == "image/png"
    assert ai.tool_calls[0]["args"] == {"item": "x"}
    assert tool.tool_call_id == "1"


def test_data_uris_and_urls_stay_what_they_are():
    data, url = (ContentImage(image=i) for i in ("data:image/jpeg;base64,QUJD", "https://example.org/a.png"))
    (first, second) = to_langchain(ChatMessageUser(content=[data, url])).content
    assert first == {"type": "image", "base64": "QUJD", "mime_type": "image/jpeg"}
    assert second == {"type": "image", "url": "https://example.org/a.png"}


def test_what_cannot_be_judged_is_not_dropped():
    sound = ContentAudio(audio="a.wav", format="wav")
    with pytest.raises(EvaluationError, match="ContentAudio"):
        to_langchain(ChatMessageUser(content=[sound, ContentText(text="listen")]))


async def test_a_chat_model_answers_with_its_usage():
    model = as_inspect_model("scripted", lambda tools: ScriptedModel(answers=["hello"]))
    output = await model.generate("hi")
    assert output.completion == "hello"
    assert output.usage.total_tokens == 5


async def test_a_guard_graph_answers_with_its_verdict():
    rewriter = ReasoningRewriter.from_model(ScriptedModel(answers=[ALLOW]))
    guard = create_vlm_guard(ScriptedModel(answers=["hello"]), rewriter).compile()
    output = await as_inspect_model("guarded", lambda tools: guard).generate("hi")
    assert output.completion == "hello"
    assert output.metadata["verdict"]["answer"] == "released"


async def test_each_set_of_tools_is_built_once():
    built = []

    def build(tools):
        built.append([tool["function"]["name"] for tool in tools])
        return ScriptedModel(answers=["hello"])

    model = as_inspect_model("tools", build)
    order = ToolInfo(name="order", description="Order an item.")
    for tools in ([], [order], [], [order]):
        await model.api.generate([ChatMessageUser(content="hi")], tools, "auto", GenerateConfig())
    assert built == [[], ["order"]]


def test_a_graph_that_asks_a_person_has_given_no_answer():
    state = {"messages": [HumanMessage("hi")], "verdict": {}, "__interrupt__": ["?"]}
    assert to_output(state, "m").completion == ""


def test_a_state_without_an_answer_is_an_error():
    with pytest.raises(EvaluationError, match="is no answer"):
        to_output({"messages": [HumanMessage("hi")]}, "m")


def test_an_unregistered_name_is_an_error():
    with pytest.raises(EvaluationError, match="no runnable is registered as 'nobody'"):
        LangChainAPI("nobody")
