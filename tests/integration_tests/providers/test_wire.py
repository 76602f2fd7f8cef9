"""A provider cannot notice the guard on harmless traffic: the same requests, the same state."""

from functools import cache

import pytest

pytest.importorskip("langchain_openai")

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.files import read_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.providers import report
from vlmguard_lab.bench.providers.registry import PROVIDERS
from vlmguard_lab.bench.providers.talk import MODES, WHOLE, WordJudge, behind_the_guard, compared, talk


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROVIDERS)
def test_the_guard_changes_neither_the_requests_nor_the_state(name, mode):
    provider = PROVIDERS[name]
    plain, guarded = talk(provider, mode), talk(provider, mode, VLMGuardMiddleware(WordJudge()))
    assert len(plain.bodies) == len(provider.script)
    assert guarded.bodies == plain.bodies
    assert guarded.state == plain.state


@cache
def asked_whole(name, mode):
    return talk(PROVIDERS[name], mode)


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize("name", PROVIDERS)
def test_the_guarded_chat_model_asks_for_the_whole_answer_and_changes_nothing_else(name, mode):
    provider = PROVIDERS[name]
    plain = asked_whole(name, "ainvoke" if mode.startswith("a") else "invoke")
    guarded = talk(provider, mode, wrap=behind_the_guard)
    assert len(plain.bodies) == len(provider.script)
    assert guarded.bodies == plain.bodies
    assert guarded.state == plain.state


def test_v3_events_make_blocks_of_every_text_with_the_guard_or_without():
    plain, guarded = (talk(PROVIDERS["ollama"], "stream_events v3", wrap=wrap) for wrap in (same, behind_the_guard))
    assert guarded.bodies == plain.bodies
    assert '"output_version": "v1"' in plain.state


def same(model):
    return model


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


def test_agents_json_holds_what_providers_json_says():
    wires = read_json(report.RESULTS)
    assert read_json(page.AGENTS)["providers"] == report.short(wires)
    assert set(wires["providers"]) == set(PROVIDERS)
    assert all(one["bodies_equal"] and one["chat_model"]["bodies_equal"] for one in wires["providers"].values())
    assert page.marked("providers", report.table(wires)) in report.PAGE.read_text()
