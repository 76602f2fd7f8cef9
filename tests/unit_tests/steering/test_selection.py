"""Layers are chosen by what they do to answers."""

import pytest

from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.steering.gates import ReluGate
from langchain_vlmguard.steering.interventions import Push
from langchain_vlmguard.steering.selection import Trial, candidates, select_layers, sounds_like_refusal
from langchain_vlmguard.steering.steering import Steering
from vlmguard_lab.testbed.anchors import load_testbed_anchors
from vlmguard_lab.testbed.judge import refuses

SHUT = ReluGate(1e6)


@pytest.fixture(scope="module")
def chosen():
    vlm = load_vlm("testbed", device="cpu")
    _, held_out = load_testbed_anchors(40).split(0.5)
    tried = candidates(
        vlm.directions,
        layers=[(1,), (3,)],
        interventions=[Push(0.1), Push(1.5)],
        gates=[ReluGate(0.25), SHUT],
        reads=["query"],
    )
    return select_layers(
        vlm.model, vlm.processor, vlm.directions, held_out, tried=tried, refuses=refuses, progress=False
    )


def test_every_candidate_is_tried_and_the_best_comes_first(chosen):
    _, trials = chosen
    assert len(trials) == 2 * 2 * 2
    assert [t.score for t in trials] == sorted((t.score for t in trials), reverse=True)


def test_a_shut_gate_keeps_every_answer_and_wins_nothing(chosen):
    _, trials = chosen
    shut = [trial for trial in trials if trial.steering.gate == SHUT]
    assert {trial.kept for trial in shut} == {1.0}
    assert trials[0].refused > shut[0].refused
    assert trials[0].kept > 0.9


def test_the_choice_is_what_is_recommended(chosen):
    directions, trials = chosen
    best = Steering.recommended(directions)
    assert best.identity == trials[0].steering.identity
    assert not best.decode
    assert directions.card.choice["refused"] == trials[0].refused


def test_of_equal_candidates_the_more_cautious_one_wins():
    directions = load_vlm("testbed", device="cpu").directions
    tried = candidates(
        directions,
        layers=[(3,)],
        interventions=[Push(1.0), Push(2.0)],
        gates=[ReluGate(0.5), ReluGate(0.25)],
        reads=["query"],
    )
    trials = [Trial(steering, refused=1.0, kept=1.0) for steering in tried]
    best = max(trials, key=lambda trial: trial.rank).steering
    assert (best.intervention, best.gate) == (Push(2.0), ReluGate(0.25))
    assert max([*trials, Trial(tried[0], 1.0, 0.9)], key=lambda trial: trial.rank).steering is best


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t assist.", True),
        ("To make a kite, join paper and string.", False),
        ("A " + "long " * 40 + "text that says sorry at last.", False),
    ],
)
def test_refusals_are_heard_at_the_start_of_an_answer(answer, refusal):
    assert sounds_like_refusal(answer) == refusal
