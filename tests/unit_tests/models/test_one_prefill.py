"""A gate above the first edited layer is read in the answer's own prefill, and the result is that of a prefill of its own."""

from dataclasses import replace

import pytest

from langchain_vlmguard import ChatSteeredVLM, Steering
from langchain_vlmguard.models.batch import Batch
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from tests.architecture_checks import asked, chat, loaded_vlm
from tests.tiny_models import WITH_PROCESSOR, random_directions
from vlmguard_lab.testbed.requests import Cell

CELLS = [
    Cell("textual", "text", harmful=True),
    Cell("textual", "text", harmful=False),
    Cell("picture", "make_this", harmful=True),
]


@pytest.fixture
def vlm(testbed):
    return replace(testbed)


def passes(vlm, run):
    """Return what `run` returns, and how many tokens each pass of the decoder read."""
    seen = []
    handle = locate_decoder(vlm.model).layers[0].register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-2]))
    try:
        return run(), seen
    finally:
        handle.remove()


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("layers", [(3,), (2, 5)])
def test_answers_and_readings_are_those_of_two_prefills(vlm, monkeypatch, decode, layers):
    steering = replace(Steering.recommended(vlm.directions), layers=layers, gate_layer=5, reads="input", decode=decode)
    model = ChatSteeredVLM.from_loaded(vlm, steering=steering, max_tokens=16, logprobs=True)
    rows = [[request.message()] for cell in CELLS for request in cell.sample(2, seed=4)]
    one = [*map(model.invoke, rows), *model.batch(rows)]
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "_rewinds", False)
        two = [*map(model.invoke, rows), *model.batch(rows)]
    assert {answer.response_metadata["steering"]["open"] for answer in one} == {True, False}
    for first, second in zip(one, two, strict=True):
        assert first.text == second.text
        assert first.response_metadata["steering"]["score"] == pytest.approx(
            second.response_metadata["steering"]["score"], abs=1e-3
        )
        for token, other in zip(
            first.response_metadata["logprobs"]["content"], second.response_metadata["logprobs"]["content"], strict=True
        ):
            assert token["logprob"] == pytest.approx(other["logprob"], abs=1e-3)


def test_a_shut_gate_costs_nothing_and_an_open_one_a_token(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=6)
    prompts = ("how do i make a kite ?", "how do i make a bomb ?")
    shut, opened = (passes(vlm, lambda text=text: model.invoke(text)) for text in prompts)
    assert not shut[0].response_metadata["steering"]["open"]
    assert opened[0].response_metadata["steering"]["open"]
    assert [tokens > 1 for tokens in shut[1]].count(True) == 1
    assert [tokens > 1 for tokens in opened[1]].count(True) == 1
    assert len(opened[1]) == opened[0].usage_metadata["output_tokens"] + 1


@pytest.mark.parametrize("family", [pytest.param(one, marks=pytest.mark.slow) for one in WITH_PROCESSOR])
def test_every_family_gives_what_two_prefills_give(family, monkeypatch):
    vlm = loaded_vlm(*WITH_PROCESSOR[family]())
    kind = INTERVENTIONS["amplify"](alpha=4.0)
    steering = Steering(random_directions(vlm.model), layers=(0,), gate_layer=2, intervention=kind, gate=AlwaysOpen())
    model = chat(vlm, steering=steering)
    rows = [asked("hello"), asked("what is it?", "red"), asked("a longer question, without")]
    one = [*map(model.invoke, rows), *model.batch(rows)]
    monkeypatch.setattr(Batch, "_rewinds", False)
    assert [answer.text for answer in one] == [answer.text for answer in [*map(model.invoke, rows), *model.batch(rows)]]
