"""Numbers: requests, actions, latencies, failures, queue and tokens, under names of ours alone."""

import re

from tests.serving.rules import BLOCKME, BREAKME, HOLDME, MASKME
from tests.serving.running import asks, running, send
from tests.serving.upstream import whole


def numbers(server):
    text = send(server.port, b"", "/metrics", method="GET").body.decode()
    lines = [line.rpartition(" ") for line in text.split("\n") if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines if "_created" not in name}


def test_everything_is_counted_and_no_label_is_a_callers(up, tmp_path):
    with running(up, tmp_path) as server:
        for text in ("hi", MASKME, BLOCKME, HOLDME, BREAKME):
            send(server.port, asks(text))
        up.scripts = [whole({}, 500)]
        send(server.port, asks())
        send(server.port, asks() | {"model": "strange-model"})
        send(server.port, b"{}", "/v1/strange-path")
        send(server.port, {"texts": [BLOCKME]}, "/beta/litellm_basic_guardrail_api")
        send(server.port, {"texts": [BREAKME]}, "/beta/litellm_basic_guardrail_api")
        found = numbers(server)
    chat = 'route="/v1/chat/completions"'
    for status, count in ((200, 3), (409, 1), (503, 2), (404, 1)):
        assert found[f'vlmguard_requests_total{{{chat},status="{status}"}}'] == count
    for action in ("allow", "rewrite", "refuse", "review"):
        assert found[f'vlmguard_actions_total{{action="{action}",{chat}}}'] == 1
    assert found['vlmguard_guard_failures_total{stage="guard"}'] == 2
    assert found['vlmguard_guard_failures_total{stage="model"}'] == 1
    assert found['vlmguard_actions_total{action="blocked",route="/beta/litellm_basic_guardrail_api"}'] == 2
    assert found[f"vlmguard_request_seconds_count{{{chat}}}"] == 7
    assert found['vlmguard_stage_seconds_count{stage="rewrite"}'] == 3
    assert found['vlmguard_tokens_total{kind="input_tokens"}'] == 6
    assert (found["vlmguard_running"], found["vlmguard_waiting"], found["vlmguard_draining"]) == (0, 0, 0)
    assert not re.search("strange|BLOCKME|up-model", str(found))
