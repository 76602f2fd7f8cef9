"""Other people's judges behind HTTP: what they find counts, and what they fail at is a block."""

import pytest

from langchain_vlmguard import Guard
from langchain_vlmguard.errors import UpstreamError
from langchain_vlmguard.serving.building import guard_of
from langchain_vlmguard.serving.config import read_config
from langchain_vlmguard.serving.judges import ModerationJudge
from tests.serving.rules import Rules
from tests.serving.running import asks, running, send
from tests.serving.upstream import Upstream, whole


def result(flagged, **scores):
    return {"flagged": flagged, "categories": {}, "category_scores": scores}


def test_scores_and_flags_are_risks(up):
    judge = ModerationJudge(up.url, "mod", "k")
    up.script = whole({"results": [result(False, violence=0.2, hate=0.4), result(True, violence=0.1), result(False)]})  # noqa: FBT003
    assert judge.judge_texts(["a", "b", "c"]) == [0.4, 1.0, 0.0]
    assert up.last.json == {"input": ["a", "b", "c"], "model": "mod"}
    assert up.last.headers["authorization"] == "Bearer k"
    assert up.last.path == "/v1/moderations"


@pytest.mark.parametrize(
    "script",
    [
        whole({"results": []}),
        whole({"results": [{}]}),
        whole({"results": [{"flagged": "no", "category_scores": {}}]}),
        whole({"results": [{"flagged": False, "category_scores": {"a": 7}}]}),
        whole({"error": "SECRET"}, 500),
        whole(b"no JSON"),
        whole({}, 302, location="http://127.0.0.1/"),
    ],
)
def test_what_is_no_answer_is_an_error_without_its_words(up, script):
    up.script = script
    with pytest.raises(UpstreamError) as raised:
        ModerationJudge(up.url).judge_texts(["a"])
    assert "SECRET" not in str(raised.value)


def test_an_answer_that_it_flags_or_cannot_judge_stays_in(up, tmp_path):
    with Upstream() as moderation:
        judge = ModerationJudge(moderation.url)
        with running(up, tmp_path, guard=Guard(Rules(), answer_judge=judge)) as server:
            moderation.script = whole({"results": [result(False)]})  # noqa: FBT003
            assert send(server.port, asks()).said == "fine"
            moderation.script = whole({"results": [result(True)]})  # noqa: FBT003
            assert send(server.port, asks()).ends == ["content_filter"]
            moderation.script = whole({}, 500)
            wire = send(server.port, asks())
            assert (wire.status, wire.json["error"]["code"]) == (503, "guard_failed")
            assert moderation.last.json == {"input": ["fine"]}


def test_a_config_names_it(tmp_path):
    path = tmp_path / "guard.yaml"
    path.write_text(
        "backend: {kind: upstream, url: 'http://x/v1', models: [a]}\n"
        "rewriter: {kind: chat, model: 'openai:m', url: 'http://x/v1', key: {value: k}}\n"
        "judge: {kind: openai-moderation, url: 'http://y/v1', model: mod}\n"
    )
    config = read_config(path)
    guard = guard_of(config, {})
    assert guard.identity["answer_judge"] == guard.identity["judge"] == "moderation:mod"
