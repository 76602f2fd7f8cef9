"""Other people's judges behind HTTP: what they find counts, and what they fail at is a block."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_vlmguard import Guard
from langchain_vlmguard.errors import ServingConfigError, UpstreamError
from langchain_vlmguard.serving.building import guard_of
from langchain_vlmguard.serving.config import read_config
from langchain_vlmguard.serving.judges import ChatJudge, DecisionJudge, GuardrailJudge, ModerationJudge
from tests.serving.rules import BADIMG, BLOCKME, BREAKME, GOODIMG, Rules
from tests.serving.running import asks, running, send
from tests.serving.upstream import Upstream, completion, whole


def result(flagged, **scores):
    return {"flagged": flagged, "categories": {}, "category_scores": scores}


def noul(risk, **diagnostics):
    told = {"diagnostics": {"harmful": diagnostics}} if diagnostics else {}
    return {"model": "m", "answers": {"harmful": {"type": "noul", "noul": risk}}, **told}


def said(text, finish="stop"):
    return completion({"content": text}, finish)


FORMS = {
    "moderation": (ModerationJudge, {"results": [result(False)]}, {"results": [result(True)]}),  # noqa: FBT003
    "systemone": (DecisionJudge, noul(0.0, label_mass=0.97, argmax_is_label=True), noul(1.0)),
    "openai-chat": (ChatJudge, said("safe"), said("unsafe\nS1,S2")),
    "litellm": (GuardrailJudge, {"action": "NONE"}, {"action": "BLOCKED", "blocked_reason": "x"}),
}


@pytest.fixture(params=[*FORMS])
def form(request):
    return FORMS[request.param]


@pytest.fixture
def other():
    """The server of somebody else's judge."""
    with Upstream() as server:
        yield server


def test_scores_and_flags_are_risks(up):
    judge = ModerationJudge(up.url, "mod", "k")
    up.script = whole({"results": [result(False, violence=0.2, hate=0.4), result(True, violence=0.1), result(False)]})  # noqa: FBT003
    assert judge.judge_texts(["a", "b", "c"]) == [0.4, 1.0, 0.0]
    assert up.last.json == {"input": ["a", "b", "c"], "model": "mod"}
    assert up.last.headers["authorization"] == "Bearer k"
    assert up.last.path == "/v1/moderations"


def test_a_decision_model_is_asked_one_question_and_gets_pictures(up):
    judge = DecisionJudge(up.url, "dec", "k", pictures=True, question="Is it about kites?")
    up.script = whole(noul(0.3))
    assert judge.judge_texts(["a"]) == [0.3]
    asked = {"harmful": {"type": "noul", "instructions": "Is it about kites?"}}
    assert up.last.json == {"state": "a", "questions": asked, "model": "dec"}
    assert (up.last.path, up.last.headers["authorization"]) == ("/v1/systemone", "Bearer k")
    turn = [SystemMessage("be kind"), HumanMessage([{"type": "image_url", "image_url": {"url": GOODIMG}}, "what?"])]
    assert judge.invoke(turn).risk == 0.3
    assert up.last.json["state"] == "be kind\nwhat?"
    assert up.last.json["images"] == [GOODIMG]


def test_a_chat_model_says_one_word_and_sees_pictures(up):
    judge = ChatJudge(up.url, "guard", pictures=True)
    for answer, risk in (("Safe.", 0.0), ("unsafe\nS9", 1.0), ("<think>unsafe?</think>safe", 0.0)):
        up.script = whole(said(answer))
        assert judge.judge_texts(["a"]) == [risk]
    judge.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": GOODIMG}}, "what?"])])
    content = up.last.json["messages"][1]["content"]
    assert content == [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": GOODIMG}}]
    assert up.last.path == "/v1/chat/completions"


@pytest.mark.parametrize("action", ["BLOCKED", "GUARDRAIL_INTERVENED"])
def test_what_another_guardrail_would_stop_or_change_is_harmful(up, action):
    up.script = whole({"action": action, "texts": ["x"]})
    judge = GuardrailJudge(f"http://127.0.0.1:{up.port}", pictures=True)
    assert judge.judge_texts(["a"]) == [1.0]
    assert up.last.path == "/beta/litellm_basic_guardrail_api"
    assert up.last.json == {"input_type": "request", "texts": ["a"], "images": [], "request_data": {}}


def test_a_moderation_endpoint_gets_each_picture_with_the_words(up):
    up.scripts = [whole({"results": [result(False, a=0.1)]}), whole({"results": [result(False, a=0.6)]})]  # noqa: FBT003
    judge = ModerationJudge(up.url, pictures=True)
    turn = HumanMessage([{"type": "image_url", "image_url": {"url": GOODIMG}}, "what?"])
    assert judge.invoke([turn]).risk == 0.6
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": GOODIMG}}]
    assert [one.json["input"] for one in up.requests] == [parts, ["what?"]]


@pytest.mark.parametrize(
    "script",
    [
        whole({}),
        whole({"results": []}),
        whole({"results": [{}]}),
        whole({"results": [{"flagged": "no", "category_scores": {}}]}),
        whole({"results": [result(False, a=7)]}),  # noqa: FBT003
        whole({"answers": {}}),
        whole({"answers": {"harmful": {"type": "noul", "noul": "0"}}}),
        whole({"answers": {"harmful": {"type": "noul", "noul": 1.5}}}),
        whole({"answers": {"harmful": {"type": "choice", "choice": "safe"}}}),
        whole({"answers": {"other": {"type": "noul", "noul": 0.0}}}),
        whole(noul(0.0, label_mass=0.1, argmax_is_label=False)),
        whole(said("")),
        whole(said("safe or unsafe")),
        whole(said("It is safe")),
        whole(said("safe", "length")),
        whole(said("<think>safe")),
        whole({"choices": []}),
        whole({"action": "none"}),
        whole({"action": None}),
        whole({"error": "SECRET"}, 500),
        whole(b"no JSON"),
        whole(b"[]"),
        whole(b"[" * 100_000),
        whole({}, 302, location="http://127.0.0.1/"),
    ],
)
def test_what_is_no_answer_is_an_error_without_its_words(up, form, script):
    up.script = script
    with pytest.raises(UpstreamError) as raised:
        form[0](up.url).judge_texts(["a"])
    assert "SECRET" not in str(raised.value)


def test_a_judge_that_is_not_there_or_silent_is_an_error(up, form):
    up.script = whole({})
    up.script.steps.insert(0, 3)
    with pytest.raises(UpstreamError, match="ReadTimeout"):
        form[0](up.url, seconds=0.2).judge_texts(["a"])
    with pytest.raises(UpstreamError, match="ConnectError"):
        form[0]("http://127.0.0.1:9/v1").judge_texts(["a"])


def test_an_answer_that_it_flags_or_cannot_judge_stays_in(up, other, form, tmp_path):
    kind, fine, bad = form
    with running(up, tmp_path, guard=Guard(Rules(), answer_judge=kind(other.url))) as server:
        other.script = whole(fine)
        assert send(server.port, asks()).said == "fine"
        other.script = whole(bad)
        assert send(server.port, asks()).ends == ["content_filter"]
        other.script = whole({}, 500)
        wire = send(server.port, asks())
        assert (wire.status, wire.json["error"]["code"]) == (503, "guard_failed")


def test_a_request_that_it_flags_or_cannot_judge_reaches_no_model(up, other, form, tmp_path):
    kind, fine, bad = form
    judge = kind(other.url, pictures=True)
    shown = asks([{"type": "image_url", "image_url": {"url": GOODIMG}}, {"type": "text", "text": "what?"}])
    with running(up, tmp_path, guard=Guard(judge, answer_judge=judge)) as server:
        other.script = whole(bad)
        assert send(server.port, shown).ends == ["content_filter"]
        other.script = whole(b"{")
        assert send(server.port, shown).status == 503
        assert not up.requests
        other.script = whole(fine)
        if kind is ModerationJudge:  # one result a text
            other.scripts = [whole(fine)] * 3
        assert send(server.port, shown).said == "fine"


def test_pictures_are_never_passed_over(up, other, form, tmp_path):
    kind, fine, _ = form
    other.script = whole(fine)
    shown = asks([{"type": "image_url", "image_url": {"url": GOODIMG}}, {"type": "text", "text": "what?"}])
    with running(up, tmp_path, guard=Guard(kind(other.url), answer_judge=kind(other.url))) as server:
        assert send(server.port, shown).status == 503
        assert not other.requests
        assert not up.requests
        assert send(server.port, asks()).said == "fine"


@pytest.mark.parametrize("kind", ["systemone", "litellm"])
def test_one_guard_asks_another_for_words_and_pictures(up, tmp_path, kind):
    backend = {"kind": "upstream", "url": up.url, "models": ["up"]}
    with running(up, tmp_path) as first:
        url = first.url if kind == "systemone" else first.url.removesuffix("/v1")
        judge = {"kind": kind, "url": url, "pictures": True}
        given = {"guard": None, "backend": backend, "judge": judge}
        with running(up, tmp_path / "second", by_config=True, **given) as second:
            assert send(second.port, asks()).said == "fine"
            bad = [{"type": "image_url", "image_url": {"url": BADIMG}}, {"type": "text", "text": "what?"}]
            for text in (f"x {BLOCKME}", bad):
                assert send(second.port, asks(text)).ends == ["content_filter"]
            assert send(second.port, asks(BREAKME)).status in ((503,) if kind == "systemone" else (200,))
            assert len(up.requests) == 1
            up.script = whole(completion({"content": f"ok {BLOCKME}"}))
            wire = send(second.port, asks())
            assert wire.ends == ["content_filter"]
            assert BLOCKME.encode() not in wire.raw


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        ("{kind: openai-moderation, url: 'http://y/v1', model: mod}", "moderation:mod"),
        ("{kind: systemone, url: 'http://y/v1', question: 'Is it bad?'}", "systemone:default"),
        ("{kind: openai-chat, url: 'http://y/v1', model: guard, pictures: true}", "openai-chat:guard"),
        ("{kind: litellm, url: 'http://y'}", "litellm:default"),
    ],
)
def test_a_config_names_it(tmp_path, judge, name):
    path = tmp_path / "guard.yaml"
    backend = "backend: {kind: upstream, url: 'http://x/v1', models: [a]}\n"
    path.write_text(f"{backend}judge: {judge}\n")
    guard = guard_of(read_config(path), {})
    assert guard.identity["answer_judge"] == guard.identity["judge"] == guard.identity["rewriter"] == name
    rewriter = "rewriter: {kind: chat, model: 'openai:m', url: 'http://x/v1', key: {value: k}}\n"
    path.write_text(f"{backend}{rewriter}judge: {judge}\n")
    guard = guard_of(read_config(path), {})
    assert guard.identity["answer_judge"] == name != guard.identity["rewriter"]


def test_a_config_without_the_judge_that_it_needs_is_refused(tmp_path):
    path = tmp_path / "guard.yaml"
    path.write_text("rewriter: {kind: judge}\n")
    with pytest.raises(ServingConfigError, match="needs a `judge`"):
        read_config(path)
