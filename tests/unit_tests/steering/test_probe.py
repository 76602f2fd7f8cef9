"""The probe on whole turns: what it clears, what that costs, and which model it belongs to."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from langchain_core.messages import HumanMessage

from langchain_vlmguard import ChatSteeredVLM, GuardPolicy, ReasoningRewriter, create_vlm_guard
from langchain_vlmguard.errors import DirectionsMismatchError
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.judging import text_risks
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.logistic import Logistic
from langchain_vlmguard.steering.probe import LabelledTurn, TurnProbe
from langchain_vlmguard.steering.thresholds import FURTHER, ScoredKinds, early, graded
from tests.chat_models import ScriptedModel
from tests.rewrites import ALLOW
from tests.tiny_models import tiny_llava
from vlmguard_lab.testbed import world
from vlmguard_lab.testbed.probe import probe_answers, probe_turns
from vlmguard_lab.testbed.requests import Cell
from vlmguard_lab.testbed.world import a

ADAPTIVE = GuardPolicy(rewrite="adaptive")


@pytest.fixture
def vlm(testbed):
    return replace(testbed)


@contextmanager
def counted(vlm):
    """Count runs of the processor, the tower and the decoder, and hooks that are left when a token is decoded."""
    counts = Counter()
    layers = locate_decoder(vlm.model).layers

    def decoder(_module, _args, given):
        one = given["inputs_embeds"].shape[1] == 1
        counts["decode" if one else "prefill"] += 1
        counts["hooks while decoding"] += one and sum(len(layer._forward_hooks) for layer in layers)

    handles = [
        vlm.model.model.language_model.register_forward_pre_hook(decoder, with_kwargs=True),
        vlm.model.model.vision_tower.register_forward_pre_hook(lambda *_: counts.update(["tower"])),
    ]
    original = type(vlm.processor).__call__

    def call(self, *args, **kwargs):
        counts["processor"] += 1
        return original(self, *args, **kwargs)

    type(vlm.processor).__call__ = call
    try:
        yield counts
    finally:
        type(vlm.processor).__call__ = original
        for handle in handles:
            handle.remove()


def guarded(vlm, answer_judge=None):
    scripted = ScriptedModel(answers=[ALLOW])
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=20)
    rewriter = ReasoningRewriter.from_model(scripted)
    return scripted, create_vlm_guard(model, rewriter, policy=ADAPTIVE, answer_judge=answer_judge).compile()


@pytest.mark.parametrize(
    "cell", [Cell("picture", "identity", harmful=False, split="seen"), Cell("textual", "text", harmful=False)]
)
def test_a_cleared_turn_costs_what_the_plain_answer_costs(vlm, cell):
    message = cell.sample(3, seed=5)[2].message()
    with counted(vlm) as plain:
        expected = ChatSteeredVLM.from_loaded(vlm, steering=None, max_tokens=20).invoke([message])
    vlm.engine.features.clear()
    rewriter, guard = guarded(vlm)
    with counted(vlm) as counts:
        state = guard.invoke({"messages": [message]})
    assert rewriter.seen == []
    assert counts == plain
    assert (plain["prefill"], plain["processor"], plain["hooks while decoding"]) == (1, 1, 0)
    assert state["messages"][-1].text == expected.text
    _, judging = guarded(vlm, "auto")
    vlm.engine.features.clear()
    with counted(vlm) as judged:
        assert judging.invoke({"messages": [message]})["messages"][-1].text == expected.text
    assert judged - plain == Counter(prefill=1, processor=1)
    trace, provenance = state["verdict"]["steering"], state["verdict"]["provenance"]
    assert (trace["gate"], trace["intervention"], trace["open"]) == ("probe", "none", False)
    assert provenance["probe"] == vlm.probe.hash


@pytest.mark.parametrize(
    ("family", "variant"), [("picture", "make_this"), ("cross_modal", "here"), ("drawn", "poster")]
)
def test_what_only_the_picture_shows_is_not_cleared(vlm, family, variant):
    rewriter, guard = guarded(vlm)
    for request in Cell(family, variant, harmful=True, split="seen").sample(4, seed=21):
        guard.invoke({"messages": [request.message()]})
    assert len(rewriter.seen) == 4


def test_rows_that_are_screened_together_are_read_as_when_alone(vlm):
    cells = [
        Cell("picture", "identity", harmful=False),
        Cell("drawn", "poster", harmful=True),
        Cell("textual", "text", harmful=True),
    ]
    messages = [[cell.sample(1, seed=8)[0].message()] for cell in cells for _ in range(2)]
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=12)
    alone = [model.invoke(one, until_gate=True).response_metadata["steering"] for one in messages]
    together = [answer.response_metadata["steering"] for answer in model.batch(messages, until_gate=True)]
    assert [trace["open"] for trace in together] == [trace["open"] for trace in alone]
    assert [trace["score"] for trace in together] == pytest.approx([trace["score"] for trace in alone], abs=1e-3)


def test_fitting_finds_what_tells_the_classes_apart(testbed):
    turns = [turn for turn in probe_turns(testbed.processor, 8) if turn.kind in ("textual/text", "picture/make_this")]
    probe = TurnProbe.fit(testbed.model, testbed.processor, turns, missed=0.0, progress=False)
    assert set(probe.heads) == {"text", "picture"}
    assert probe.card.turns == len(turns)
    assert probe.card.cleared["text"] > 0.5
    again = TurnProbe.fit(testbed.model, testbed.processor, turns, missed=0.0, progress=False)
    assert again.hash == probe.hash


def test_a_head_of_answers_is_fitted_beside_those_of_turns(testbed):
    turns = [turn for turn in probe_turns(testbed.processor, 40) if turn.kind == "textual/text"]
    turns += probe_answers(testbed.processor, 400)
    probe = TurnProbe.fit(testbed.model, testbed.processor, turns, progress=False)
    assert set(probe.heads) == {"text", "answer", "early"}
    assert probe.card.cleared["answer"] > 0.3
    assert 0.1 < probe.card.cleared["early"] < probe.card.cleared["answer"]
    assert probe.card.early_layer == 0
    with pytest.raises(KeyError):
        replace(probe, heads={"text": probe.heads["text"]}).answer_risks(testbed.model, testbed.processor, ["hello"])


@contextmanager
def layers_run(model):
    """Collect which decoder layers run."""
    ran = []
    layers = locate_decoder(model).layers
    handles = [layer.register_forward_pre_hook(lambda *_, at=at: ran.append(at)) for at, layer in enumerate(layers)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()
        assert not any(layer._forward_hooks for layer in layers)


CLEARLY_HARMLESS, HARMFUL = "you can buy a bed at the store .", "you can buy a bomb at the black market ."


def test_an_answer_that_is_clearly_harmless_early_is_read_no_further(testbed):
    judge = ChatSteeredVLM.from_loaded(testbed).answer_judge
    depth = len(locate_decoder(testbed.model))
    with layers_run(testbed.model) as ran:
        (harmless,) = judge.judge_texts([CLEARLY_HARMLESS])
        assert ran == [0]
        (harmful,) = judge.judge_texts([HARMFUL])
        assert ran == [0, *range(depth)]
    assert harmless < GuardPolicy().controversial_at
    assert harmful > GuardPolicy().unsafe_at
    assert judge.judge_texts([HARMFUL, CLEARLY_HARMLESS]) == pytest.approx([harmful, harmless], abs=1e-4)


def test_a_text_is_read_no_deeper_than_its_gate(testbed):
    steering = replace(testbed.recommended, gate_layer=2)
    with layers_run(testbed.model) as ran:
        text_risks(testbed, [to_chat_row([HumanMessage("how do i make a bomb ?")], testbed.processor)], steering)
    assert ran == [0, 1, 2]


def test_a_prefill_that_ended_early_leaves_the_model_as_it_was(testbed):
    chat = ChatSteeredVLM.from_loaded(testbed, steering=None, max_tokens=20)
    message = [Cell("picture", "identity", harmful=False).sample(1, seed=2)[0].message()]
    before = chat.invoke(message).text
    chat.answer_judge.judge_texts([CLEARLY_HARMLESS])
    assert chat.invoke(message).text == before


def test_without_the_early_head_every_answer_is_read_to_the_end(testbed):
    heads = {head: logistic for head, logistic in testbed.probe.heads.items() if head != "early"}
    whole = replace(testbed.probe, heads=heads)
    text = next(turn.text for turn in probe_answers(testbed.processor, 20) if not turn.harmful)
    with layers_run(testbed.model) as ran:
        whole.answer_risks(testbed.model, testbed.processor, [text])
    assert ran == list(range(len(locate_decoder(testbed.model))))


def test_the_early_threshold_lies_below_where_harm_begins():
    head = Logistic(torch.zeros(1), torch.ones(1), torch.ones(1), torch.zeros(1), torch.zeros(1))
    kinds = ScoredKinds([torch.tensor([-1.0, 5.0])], [torch.tensor([-6.0, -1.5, 2.0, 2.0])])
    found, share = early(head, kinds, 0.0)
    assert found.score(torch.tensor([[-1.0 - FURTHER]])) == pytest.approx(float(found.threshold))
    assert torch.sigmoid(found.threshold).item() == pytest.approx(GuardPolicy().controversial_at)
    assert share == 0.25


def test_the_risk_of_an_answer_at_the_threshold_is_where_the_default_policy_refuses(testbed):
    head = testbed.probe.heads["answer"]
    text = probe_answers(testbed.processor, 20)[0].text
    zeroed = replace(head, weights=torch.zeros_like(head.weights), bias=head.threshold)
    probe = replace(testbed.probe, heads={"answer": zeroed})
    (risk,) = probe.answer_risks(testbed.model, testbed.processor, [text])
    assert risk == pytest.approx(GuardPolicy().unsafe_at)


def test_answers_are_graded_between_where_one_class_begins_and_the_other_ends():
    head = Logistic(torch.zeros(1), torch.ones(1), torch.ones(1), torch.zeros(1), torch.zeros(1))
    policy = GuardPolicy()
    for harmful, harmless in (([-1.0, 5.0], [-6.0, 2.0]), ([2.0, 5.0], [-6.0, -1.0])):
        found, safe = graded(head, ScoredKinds([torch.tensor(harmful)], [torch.tensor(harmless)]), 0.0)
        risks = found.score(torch.tensor([[-1.0], [2.0]])).sigmoid().tolist()
        assert risks == pytest.approx([policy.controversial_at, policy.unsafe_at])
        assert safe == 0.5


def test_no_answer_of_the_probe_names_what_is_held_out(testbed):
    names = [
        f" {a(thing)} {after}" for thing in world.HELD_OUT_THINGS for after in (",", "at", "in", "to", "with", ".")
    ]
    names += [world.setting_phrase(setting) for setting in world.HELD_OUT_SETTINGS]
    turns = probe_answers(testbed.processor, 1000)
    assert len({turn.text for turn in turns}) == len(turns)
    assert not [name for name in names if any(name in turn.text for turn in turns)]
    assert {turn.kind for turn in turns} == {"help", "harm", "refusal", "safe way"}
    assert all(turn.harmful == (turn.kind == "harm") for turn in turns)


def test_a_probe_needs_both_classes_and_groups(testbed):
    row = LabelledTurn("<user>hello<end><assistant>", harmful=False, groups=("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="harmful and harmless"):
        TurnProbe.fit(testbed.model, testbed.processor, [row], progress=False)
    with pytest.raises(ValueError, match="as many groups"):
        TurnProbe.fit(testbed.model, testbed.processor, [replace(row, groups=("a",))], progress=False)
    with pytest.raises(ValueError, match="turns that have groups"):
        TurnProbe.fit(testbed.model, testbed.processor, [row, replace(row, harmful=True, groups=())], progress=False)


def test_saved_and_read_back_and_refused_elsewhere(testbed, tmp_path):
    path = tmp_path / "probe.safetensors"
    testbed.probe.save(path)
    assert TurnProbe.load(path, model=testbed.model).hash == testbed.probe.hash
    with pytest.raises(DirectionsMismatchError, match="not on this model"):
        TurnProbe.load(path, model=tiny_llava()[0])
    testbed.directions.save(path)
    with pytest.raises(DirectionsMismatchError, match="no turn probe"):
        TurnProbe.load(path)


def test_two_probes_never_share_a_cached_answer(testbed):
    one, other = (ChatSteeredVLM.from_loaded(testbed, probe=probe) for probe in ("auto", None))
    assert one._identifying_params != other._identifying_params
    assert one.screening.sees_pictures
    assert not other.screening.sees_pictures


def test_logistic_regression_finds_a_line_it_can_find():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    positive = x[:, 0] + 2 * x[:, 1] > 0.5
    found = Logistic.fit(x, positive, 1e-4)
    assert ((found.score(x) > 0) == positive).float().mean() > 0.98
    assert (found.weights / found.scale)[1] > 1.5 * (found.weights / found.scale)[0]
