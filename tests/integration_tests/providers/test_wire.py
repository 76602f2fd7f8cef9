"""A provider cannot notice the guard on harmless traffic: the same requests, the same state."""

import pytest

pytest.importorskip("langchain_openai")

from langchain_vlmguard import VLMGuardMiddleware
from vlmguard_lab.bench.providers.registry import PROVIDERS
from vlmguard_lab.bench.providers.talk import MODES, WordJudge, compared, talk


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROVIDERS)
def test_the_guard_changes_neither_the_requests_nor_the_state(name, mode):
    provider = PROVIDERS[name]
    plain, guarded = talk(provider, mode), talk(provider, mode, VLMGuardMiddleware(WordJudge()))
    assert len(plain.bodies) == len(provider.script)
    assert guarded.bodies == plain.bodies
    assert guarded.state == plain.state


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_comparison_sees_a_rewritten_turn(name):
    provider = PROVIDERS[name]
    guarded = talk(provider, "invoke", VLMGuardMiddleware(WordJudge(rewritten="who are you")))
    bodies, state = compared(talk(provider, "invoke"), guarded)
    assert not bodies
    assert state, "a rewritten prompt stands in the request alone"


def test_the_comparison_sees_a_refused_tool_result():
    provider = PROVIDERS["openai-chat"]
    plain, guarded = (
        talk(provider, "invoke", *guards) for guards in ((), (VLMGuardMiddleware(WordJudge(refused="sunny in paris")),))
    )
    assert compared(plain, guarded) == (False, False)


def test_streams_ask_the_provider_for_a_stream():
    bodies = talk(PROVIDERS["openai-chat"], "stream messages", VLMGuardMiddleware(WordJudge())).bodies
    assert all('"stream": true' in body for body in bodies)
