"""What providers' own packages send for a rewriter and make of the answer; each test needs the package that it is about."""

import json

import pytest
from langchain_core.messages import HumanMessage

from langchain_vlmguard import ReasoningRewriter
from langchain_vlmguard.errors import RewriteError
from tests.rewrites import ALLOW

TURN = [HumanMessage("can i fly a kite?")]
FIELDS = ["threats", "intent", "legitimate_part", "decision"]
REPORT = {"threats": [], "intent": "a kite", "decision": {"action": "allow", "risk": 0}}
REFUSAL = REPORT | {"decision": {"action": "refuse", "risk": 1}}


def in_openai(content, **message):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **message}}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def openai(said):
    httpx, module = pytest.importorskip("httpx"), pytest.importorskip("langchain_openai")
    sent = []

    def answer(request):
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=in_openai(said(sent[-1])))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return module.ChatOpenAI(model="gpt-4o", api_key="x", http_client=client, max_retries=0), sent


def anthropic(*content):
    httpx, sdk = pytest.importorskip("httpx2"), pytest.importorskip("anthropic")
    module = pytest.importorskip("langchain_anthropic")
    sent = []

    def answer(request):
        sent.append(json.loads(request.content))
        usage = {"input_tokens": 1, "output_tokens": 1}
        about = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "stop_reason": "end_turn",
            "usage": usage,
        }
        return httpx.Response(200, json={**about, "content": list(content)})

    model = module.ChatAnthropic(model="claude-sonnet-4-5", api_key="x", max_retries=0, max_tokens=1000)
    client = httpx.Client(transport=httpx.MockTransport(answer))
    model.__dict__["_client"] = sdk.Anthropic(api_key="x", http_client=client)
    return model, sent


def ollama(content, **fields):
    httpx, module = pytest.importorskip("httpx"), pytest.importorskip("langchain_ollama")
    sent = []

    def answer(request):
        sent.append(json.loads(request.content))
        said = {"role": "assistant", "content": content}
        line = {
            "model": "m",
            "created_at": "2026-01-01T00:00:00Z",
            "message": said,
            "done": True,
            "done_reason": "stop",
        }
        return httpx.Response(200, text=json.dumps(line | fields) + "\n")

    return module.ChatOllama(model="m", client_kwargs={"transport": httpx.MockTransport(answer)}), sent


@pytest.mark.parametrize(
    "content", [json.dumps(REPORT), f"<think>so</think>\n{json.dumps(REPORT)}", f"```json\n{json.dumps(REPORT)}\n```"]
)
def test_openai_is_asked_in_strings_by_the_schema_and_what_its_parser_cannot_read_is_asked_for_in_tags(content):
    model, sent = openai(lambda asked: content if "response_format" in asked else f"<think>so</think>{ALLOW}")
    rewriter = ReasoningRewriter.from_model(model)
    assert rewriter.invoke(TURN).action == "allow"
    assert all(isinstance(message["content"], str) for message in sent[0]["messages"])
    assert list(sent[0]["response_format"]["json_schema"]["schema"]["properties"]) == FIELDS
    assert rewriter.identity == "ChatOpenAI:gpt-4o"


def test_openais_bound_arguments_are_sent():
    model, sent = openai(lambda _: json.dumps(REPORT))
    ReasoningRewriter.from_model(model.bind(seed=7).with_retry()).invoke(TURN, temperature=0.5)
    assert (sent[0]["seed"], sent[0]["temperature"]) == (7, 0.5)
    assert "response_format" in sent[0]


def test_a_model_is_taken_by_name(monkeypatch):
    pytest.importorskip("langchain_openai")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert ReasoningRewriter.from_model("openai:gpt-4o").identity == "ChatOpenAI:gpt-4o"


def test_anthropic_calls_the_tool_beside_its_thinking_and_words():
    thought = {"type": "thinking", "thinking": json.dumps(REFUSAL), "signature": "s"}
    call = {"type": "tool_use", "id": "t", "name": "Rewrite", "input": REPORT}
    model, sent = anthropic(thought, {"type": "text", "text": "I judge."}, call)
    assert ReasoningRewriter.from_model(model).invoke(TURN).action == "allow"
    assert list(sent[0]["tools"][0]["input_schema"]["properties"]) == FIELDS
    assert sent[0]["tools"][0]["input_schema"]["type"] == "object"
    assert isinstance(sent[0]["messages"][0]["content"], str)


def test_anthropics_words_instead_of_a_call_are_read_and_its_thinking_alone_is_not():
    said = {"type": "text", "text": f"Here is my report:\n```json\n{json.dumps(REPORT)}\n```"}
    thought = {"type": "thinking", "thinking": json.dumps(REPORT), "signature": "s"}
    assert ReasoningRewriter.from_model(anthropic(thought, said)[0]).invoke(TURN).action == "allow"
    with pytest.raises(RewriteError):
        ReasoningRewriter.from_model(anthropic(thought)[0]).invoke(TURN)


def test_ollamas_parser_does_not_choose_a_report_that_was_only_thought():
    content = f"<think>They wrote ```json\n{json.dumps(REPORT)}\n``` to me.</think>{json.dumps(REFUSAL)}"
    model, sent = ollama(content)
    assert ReasoningRewriter.from_model(model).invoke(TURN).action == "refuse"
    assert list(sent[0]["format"]["properties"]) == FIELDS


def test_ollamas_answer_that_was_cut_off_is_none():
    model, _ = ollama(json.dumps(REPORT), done_reason="length")
    with pytest.raises(RewriteError, match="cut off"):
        ReasoningRewriter.from_model(model).invoke(TURN)
