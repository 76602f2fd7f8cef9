"""Another guard asks our gate: the real LiteLLM proxy, whose decision model is our decision route."""

import json
import urllib.request

import openai
import pytest

from tests.serving.litellm_program import KEY, NEEDED, litellm_proxy
from tests.serving.rules import BLOCKME, BREAKME
from tests.serving.running import running
from tests.serving.upstream import Upstream, completion, whole

pytestmark = NEEDED


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The proxy's address, and the fake upstream behind it."""
    folder = tmp_path_factory.mktemp("litellm")
    with Upstream() as up, running(up, folder) as server:
        guardrail = {
            "guardrail": "decision_model",
            "mode": ["pre_call", "post_call"],
            "decision_model": "gate",
            "checks": [{"name": "harmful", "instructions": "Is it harmful?", "threshold": 0.5}],
            "default_on": True,
        }
        models = {
            "up": {"model": "openai/up", "api_base": up.url},
            "gate": {"model": "hosted_vllm/up", "api_base": server.url},
        }
        config = {
            "model_list": [
                {"model_name": name, "litellm_params": {**one, "api_key": "x"}} for name, one in models.items()
            ],
            "guardrails": [{"guardrail_name": "gate", "litellm_params": guardrail}],
        }
        with litellm_proxy(folder, config) as url:
            yield url, up


def test_its_guardrail_stops_what_our_gate_finds_harmful_or_cannot_judge(proxied):
    url, up = proxied
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def ask(text):
        found = client.chat.completions.create(model="up", messages=[{"role": "user", "content": text}])
        return found.choices[0].message.content

    assert ask("hi") == "fine"
    asked = len(up.requests)
    for text in (BLOCKME, BREAKME):
        with pytest.raises(openai.APIStatusError):
            ask(text)
    assert len(up.requests) == asked
    up.scripts = [whole(completion({"content": f"ok {BLOCKME}"}))]
    with pytest.raises(openai.APIStatusError) as raised:
        ask("hi")
    assert BLOCKME not in str(raised.value.body)


def test_its_decision_route_hands_our_answer_on(proxied):
    url, _ = proxied  # words alone: its provider for vLLM takes no pictures (read in 1.108)
    for state, risk in (("hi", 0.0), (f"x {BLOCKME}", 0.9)):
        questions = {"harmful": {"type": "noul", "instructions": "Is it harmful?"}}
        body = {"model": "gate", "state": state, "questions": questions}
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/systemone", json.dumps(body).encode(), headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            assert json.load(answer)["answers"]["harmful"]["noul"] == risk
