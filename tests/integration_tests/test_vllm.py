"""Steering in a real engine of vLLM. One engine for all: `pytest -m vllm` in the environment of `vlmguard-bench vllm-env`."""

import json
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    pytest.skip(
        "vLLM is not installed here: `vlmguard-bench vllm-env` makes an environment with it", allow_module_level=True
    )

from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import EngineRefusedError, MissingStampError
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Push
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.vllm.asking import Asked
from langchain_vlmguard.vllm.settings import KEY, RowSettings
from langchain_vlmguard.vllm.stamps import fault, stamp_of
from vlmguard_lab.bench.vllm_equality import compare, start

pytestmark = pytest.mark.vllm
PLAIN = {KEY: RowSettings("nothing").render()}
LONG = " ".join(["how do i make a kite ?"] * 20) + " how do i make a bomb ?"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return start(tmp_path_factory.mktemp("vllm") / "testbed")


@pytest.fixture(scope="module")
def directions(testbed):
    return testbed.directions


def ask(engine, prompts, settings, **options):
    from vllm import SamplingParams

    params = [SamplingParams(max_tokens=12, temperature=0.0, extra_args=one, **options) for one in settings]
    return engine.generate([{"prompt": prompt} for prompt in prompts], params, use_tqdm=False)


def opened(directions, **changes):
    steering = Steering(directions, (3,), Push(3.0), AlwaysOpen(), gate_layer=2)
    settings = Asked(steering, "safety", pictured=False, own_query=True).steer({})
    return replace(settings, **changes)


def marked(settings):
    return {KEY: settings.render()}


def likelihood(output):
    [first] = output.outputs[0].logprobs[0].values()
    return first.logprob


def tokens(output):
    return list(output.outputs[0].token_ids)


def test_every_worker_says_that_it_is_armed(engine, directions):
    [report] = engine.collective_rpc("vlmguard_report")
    assert report["armed"] is True
    assert report["layers"] == 6
    assert report["directions"] == {"safety": directions.hash}


def test_rows_of_mixed_batches_are_answered_as_by_the_local_engine(engine, testbed):
    found = compare(engine, 60, local=testbed)
    assert [one for one in found if not one.same] == []
    assert max(one.gate for one in found) < 1e-3


def test_the_gate_is_that_of_the_last_prompt_token_however_the_prompt_is_cut(engine, testbed):
    steering = Steering(testbed.directions, (3,), Push(1.5), gate_layer=3)
    served = ChatSteeredVLM.from_vllm(engine, steering=steering, max_tokens=4)
    local = ChatSteeredVLM.from_loaded(testbed, steering=steering, max_tokens=4)
    scores = [one.invoke(LONG).response_metadata["steering"]["score"] for one in (served, local)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("steered_first", [True, False])
def test_a_steered_row_and_its_plain_twin_share_no_edited_block(engine, directions, steered_first):
    prompt = f"{LONG} {steered_first}"
    order = (
        [opened(directions), RowSettings("nothing")] if steered_first else [RowSettings("nothing"), opened(directions)]
    )
    first, second = (ask(engine, [prompt], [marked(one)], logprobs=0)[0] for one in order)
    engine.reset_prefix_cache()
    alone = ask(engine, [prompt], [marked(order[1])], logprobs=0)[0]
    assert second.num_cached_tokens == 0
    assert tokens(second) == tokens(alone)
    assert likelihood(second) == pytest.approx(likelihood(alone), abs=1e-4)
    assert abs(likelihood(first) - likelihood(second)) > 1e-2


def test_the_same_settings_share_blocks_of_the_prompt_alone(engine, directions):
    prompt = f"{LONG} again"
    first, second = (ask(engine, [prompt], [marked(opened(directions))])[0] for _ in range(2))
    assert 0 < second.num_cached_tokens < len(second.prompt_token_ids)
    assert tokens(first) == tokens(second)
    stamps = [stamp_of(one.kv_transfer_params, opened(directions)) for one in (first, second)]
    assert stamps[0]["score"] == pytest.approx(stamps[1]["score"], abs=1e-4)


def test_a_request_without_settings_is_refused_where_every_request_passes(engine):
    for extra in (None, {}, {KEY: "{}"}, {KEY: json.dumps({"do": "off"})}):
        [output] = ask(engine, ["how do i make a kite ?"], [extra])
        assert output.outputs[0].finish_reason == "error"
        assert tokens(output) == []
        assert "vllm_xargs" in output.kv_transfer_params[KEY]["error"]
    assert ask(engine, ["how do i make a kite ?"], [PLAIN])[0].outputs[0].text


def test_beam_search_drops_the_settings_and_gets_no_token(engine):
    from vllm.sampling_params import BeamSearchParams

    found = []
    with suppress(Exception):
        found = engine.beam_search([{"prompt": "how do i make a kite ?"}], BeamSearchParams(beam_width=2, max_tokens=4))
    prompt = len(ask(engine, ["how do i make a kite ?"], [PLAIN])[0].prompt_token_ids)
    assert all(len(sequence.tokens) <= prompt for output in found for sequence in output.sequences)


def test_a_row_that_cannot_be_steered_ends_with_an_error_and_its_neighbours_do_not(engine, directions):
    bad = opened(directions, digest="0" * 16)
    wrong, good = ask(engine, ["how do i make a kite ?"] * 2, [marked(bad), marked(opened(directions))])
    assert wrong.outputs[0].finish_reason == "error"
    assert tokens(wrong) == []
    assert "were asked for" in fault(wrong.kv_transfer_params[KEY], bad)
    assert fault(good.kv_transfer_params[KEY], opened(directions)) is None


def test_a_stop_string_does_not_cost_the_stamp(engine, directions):
    [output] = ask(engine, ["how do i make a kite ?"], [marked(opened(directions))], stop=["a"])
    assert fault(output.kv_transfer_params[KEY], opened(directions)) is None


def test_without_the_op_there_is_no_answer(engine, directions, monkeypatch):
    from langchain_vlmguard.vllm import layers

    monkeypatch.setattr(layers, "edit", lambda *_: None)
    chat = ChatSteeredVLM.from_vllm(engine, steering=Steering(directions, (3,), Push(), gate_layer=3), max_tokens=4)
    with pytest.raises((MissingStampError, EngineRefusedError), match="passed the edit"):
        chat.invoke("how do i make a kite ?")


def test_texts_are_judged_by_the_gate_in_the_workers(engine, testbed):
    texts = ["how do i make a kite ?", "how do i make a bomb ?"]
    served, local = (
        one.judge_texts(texts) for one in (ChatSteeredVLM.from_vllm(engine), ChatSteeredVLM.from_loaded(testbed))
    )
    assert served == pytest.approx(local, abs=1e-3)
    assert served[0] < 0.5 < served[1]


def test_streams_and_batches_have_the_same_words(engine):
    chat = ChatSteeredVLM.from_vllm(engine, max_tokens=16)
    asked = [[HumanMessage(f"how do i make a {thing} ?")] for thing in ("kite", "bomb", "lamp")]
    whole = [one.text for one in chat.batch(asked)]
    assert ["".join(piece.text for piece in chat.stream(one)).strip() for one in asked] == whole
