"""The real LiteLLM proxy, started here, with our guard as its guardrail; it has an environment of its own, for its many pins."""

import openai
import pytest

from tests.serving.litellm_program import KEY, NEEDED, litellm_proxy
from tests.serving.rules import BADIMG, BLOCKME, BREAKME, MASKME
from tests.serving.running import running
from tests.serving.upstream import Upstream, completion, whole

pytestmark = NEEDED


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A client of the proxy, the fake upstream behind it, and the guard beside it."""
    folder = tmp_path_factory.mktemp("litellm")
    with Upstream() as up, running(up, folder) as server:
        guardrail = {
            "guardrail": "generic_guardrail_api",
            "mode": ["pre_call", "post_call"],
            "api_base": f"http://127.0.0.1:{server.port}",
            "default_on": True,
        }
        models = [{"model_name": "up", "litellm_params": {"model": "openai/up", "api_base": up.url, "api_key": "x"}}]
        guardrails = [{"guardrail_name": "vlmguard", "litellm_params": guardrail}]
        with litellm_proxy(folder, {"model_list": models, "guardrails": guardrails}) as url:
            yield openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60), up, server


def ask(client, content, **fields):
    return client.chat.completions.create(model="up", messages=[{"role": "user", "content": content}], **fields)


def test_what_is_harmless_passes_and_what_is_masked_arrives_masked(proxied):
    client, up, server = proxied
    assert ask(client, "hi").choices[0].message.content == "fine"
    ask(client, f"say {MASKME}")
    assert up.last.json["messages"][-1]["content"] == "say [X]"
    assert any("hi" in one for one in server.rules.asked)


@pytest.mark.parametrize(
    "content",
    [
        BLOCKME,
        f"{BREAKME} hi",
        [{"type": "image_url", "image_url": {"url": BADIMG}}, {"type": "text", "text": "what?"}],
    ],
    ids=["words", "broken judge", "picture"],
)
def test_what_is_harmful_reaches_no_model(proxied, content):
    client, up, _ = proxied
    before = len(up.requests)
    with pytest.raises(openai.APIStatusError):
        ask(client, content)
    assert len(up.requests) == before


def test_a_harmful_answer_stays_in(proxied):
    client, up, _ = proxied
    up.scripts = [whole(completion({"content": f"ok {BLOCKME}"}))]
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, "hi")
    assert BLOCKME not in str(raised.value.body)
