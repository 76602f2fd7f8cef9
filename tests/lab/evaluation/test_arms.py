"""Arms on the real testbed: what they are fitted on, and that the edit reaches the model."""

from dataclasses import replace

import pytest
import torch
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText
from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import EvaluationError
from tests.chat_models import ScriptedModel
from tests.lab.evaluation.test_suites import vlguard, xstest
from tests.rewrites import ALLOW
from vlmguard_lab.evaluation.arms import fitting
from vlmguard_lab.evaluation.arms.activations import layers_at, peer_steering
from vlmguard_lab.evaluation.arms.adversarial import _attacked_states, fit_astra_here
from vlmguard_lab.evaluation.arms.base import Target
from vlmguard_lab.evaluation.arms.captions import CaptionedVLM
from vlmguard_lab.evaluation.arms.guards import steered_chat
from vlmguard_lab.evaluation.arms.hooks import PeerCall, PeerSteering
from vlmguard_lab.evaluation.arms.peers import CMRM, PeerEdit, Seen
from vlmguard_lab.evaluation.arms.prompts import ADASHIELD_S, GOAL_PRIORITY, SELF_REMINDER, wrapped
from vlmguard_lab.evaluation.arms.registry import ARMS, arm_named, load_target
from vlmguard_lab.evaluation.runner import Plan, evaluate
from vlmguard_lab.testbed.requests import Cell

pytestmark = pytest.mark.lab

PEERS = ("inferaligner", "cmrm", "shiftdc", "mars_style", "astra", "cast", "nullsteer")
READINGS = ("project_out", "amplify", "transplant", "fulfil", "restore")


@pytest.fixture(scope="module")
def target():
    return load_target("testbed")


@pytest.fixture(scope="module")
def states(target):
    return fitting.anchor_states(target)


def asked(n=3, *, harmful=True, variant="blank"):
    return [[request.message()] for request in Cell("meaningless", variant, harmful=harmful).sample(n)]


def test_every_arm_has_a_card():
    for name, arm in ARMS.items():
        assert arm.card.name == name
        assert arm.card.formula
        assert arm.card.source
        assert arm.card.caveat or arm.card.evidence in ("ours", "primary")


@pytest.mark.parametrize("name", [*PEERS, *READINGS])
def test_an_arm_answers_and_its_options_are_recorded(name, target):
    defence = arm_named(name).around(target)
    answers = defence.build([]).batch(asked())
    assert all(answer.text for answer in answers)
    assert {"alpha", "depths"} <= set(defence.options)


@pytest.mark.parametrize("name", PEERS)
def test_strength_zero_is_the_plain_model(name, target):
    plain = [answer.text for answer in target.chat.batch(asked())]
    assert [a.text for a in arm_named(name).around(target, alpha=0.0).build([]).batch(asked())] == plain
    changed = arm_named(name).around(target, alpha=30.0, depths=(0.6,)).build([]).batch(asked())
    if name != "astra":  # it moves only what points to attacked pictures
        assert [answer.text for answer in changed] != plain


def test_text_alone_is_nothing_to_edits_of_the_pictures_shift(target):
    messages = [[request.message()] for request in Cell("textual", "text", harmful=True).sample(3)]
    plain = [answer.text for answer in target.chat.batch(messages)]
    for name in ("cmrm", "shiftdc", "astra"):
        assert [a.text for a in arm_named(name).around(target, alpha=30.0).build([]).batch(messages)] == plain


class Marked(PeerEdit):
    name = "marked"

    def __init__(self):
        self.calls = []

    def edit(self, hidden, layer, seen):
        self.calls.append((tuple(hidden.shape), layer, tuple(seen.state.shape), seen.pictured.tolist()))
        return hidden


def test_an_edit_sees_the_last_prompt_token_and_then_each_new_one(target):
    edit = Marked()
    steering = peer_steering(target, edit, {"depths": (0.4,)})
    steered_chat(target, steering).invoke(asked(1)[0])
    (first, *others) = edit.calls
    assert first == ((1, 1, 128), 2, (1, 128), [True])
    assert others
    assert all(call[0] == (1, 1, 128) for call in others)


def test_an_edit_of_all_positions_sees_the_whole_prompt(target):
    edit = Marked()
    Marked.positions = "all"
    try:
        steered_chat(target, peer_steering(target, edit, {"depths": (1.0,)})).invoke(asked(1)[0])
    finally:
        Marked.positions = "last"
    assert edit.calls[0][0][1] > 36  # a picture is 36 tokens
    assert edit.calls[1][0] == (1, 1, 128)


def test_different_settings_never_share_a_batch(target):
    one, other = (peer_steering(target, CMRM(torch.zeros(6, 128)), {"depths": (0.4,), "alpha": a}) for a in (1, 2))
    assert one.identity != other.identity


def test_rows_may_leave_and_join_a_call_after_its_prefill():
    steering = PeerSteering(CMRM(torch.ones(1, 2)), (0,), directions=None)
    calls = [
        PeerCall(steering, {0: Seen(torch.zeros(2, 2), torch.tensor(shown))}) for shown in ([True, False], [True, True])
    ]
    calls[0].keep([1])
    calls[0].absorb(calls[1])
    edited = calls[0]._edited(torch.zeros(3, 1, 2), 0)
    assert edited[:, 0, 0].tolist() == [0, -1, -1]
    assert calls[0].trace() == [None] * 3


def test_layers_are_shares_of_the_depth(target):
    assert layers_at(target, (0.0, 0.4, 0.6, 1.0)) == (0, 2, 3, 5)


def test_peers_are_fitted_on_the_anchors(target, states):
    assert states.harmful.shape == (len(target.anchors), 6, 128)
    fitted = fitting.fit_inferaligner(target, 1.0)
    gate = states.harmful[:, 3] @ fitted.s[3] + fitted.b[3] > 0
    other = states.harmless[:, 3] @ fitted.s[3] + fitted.b[3] > 0
    assert gate.float().mean() > 0.9
    assert other.float().mean() < 0.1
    shift = fitting.fit_cmrm(target, 1.0).shift[2]
    by_hand = ((states.shown_harmful - states.harmful).mean(0) + (states.shown_harmless - states.harmless).mean(0)) / 2
    assert torch.allclose(shift, by_hand[2], atol=1e-5)
    mars = fitting.fit_mars(target, 1.0)
    assert torch.allclose(mars.radius, states.difference.norm(dim=-1))
    assert (mars.centre_picture - mars.centre_text).abs().max() > 0.05
    nothing = fitting.fit_nullsteer(target, 1.0)
    change = states.harmless[:, 3] @ nothing.matrix[3].T
    assert change.norm() < 0.5 * (states.shown_harmful[:, 3] @ nothing.matrix[3].T).norm()


def test_astra_points_from_clean_pictures_to_attacked_ones(target):
    fitted = fit_astra_here(target, 1.0)
    attacked, clean = (states.mean(0)[5] for states in _attacked_states(target))
    assert torch.allclose(attacked - clean, fitted.v[5], atol=1e-3)
    assert (attacked - fitted.h0[5]) @ fitted.v[5] > (clean - fitted.h0[5]) @ fitted.v[5]
    hidden = (fitted.h0[5] + fitted.v[5])[None, None]
    edited = fitted.edit(hidden, 5, Seen(hidden[:, 0], torch.tensor([True])))
    assert torch.allclose(edited[0, 0], fitted.h0[5], atol=1e-3)


def test_a_caption_stands_in_the_pictures_place(target):
    captioner = ScriptedModel(answers=["this is a cat ."])
    model = CaptionedVLM.from_loaded(target.weights, steering=None).captioned_by(captioner)
    picture = asked(1)[0][0].content[0]
    row = model._row([HumanMessage([picture, {"type": "text", "text": "how do i do it ?"}])], {})
    assert row.text_only == "<user>this is a cat . how do i do it ?<end><assistant>"
    assert "<image>" in row.text
    plain = model._row([HumanMessage("how do i do it ?")], {})
    assert plain.text_only == plain.text
    assert len(captioner.seen) == 1


def test_words_are_put_around_the_text_and_the_picture_stays():
    message = ChatMessageUser(content=[ContentImage(image="a.png"), ContentText(text="{x} how?")])
    for template in (SELF_REMINDER, GOAL_PRIORITY, ADASHIELD_S):
        found = wrapped(message, template)
        assert found.content[0].image == "a.png"
        assert found.text == template.replace("{}", "{x} how?")
        assert len(found.text) > 200
    assert SELF_REMINDER.count("You should be a responsible ChatGPT") == 1


def run(tmp_path, arm, answers):
    vlguard(tmp_path)
    model = ScriptedModel(answers=answers)
    plan = Plan([f"vlguard:{tmp_path}"], arms=[arm], limit=1, concurrency=1)
    _, rows = evaluate(plan, tmp_path / "out", target=Target("scripted", model))
    return model.seen, rows


def shown(messages):
    return any(block["type"] == "image" for m in messages for block in m.content_blocks)


def test_ecso_keeps_a_safe_answer(tmp_path):
    seen, rows = run(tmp_path, "ecso", ["a fine answer", "No."])
    assert [row.answer for row in rows] == ["a fine answer"] * 3
    assert len(seen) == 6
    assert "a fine answer" in seen[1][0].text
    assert all(map(shown, seen))


@pytest.mark.parametrize("said", ["Yes, it is.", "I would rather not say."])
def test_ecso_answers_again_from_a_caption_and_without_the_picture(said, tmp_path):
    seen, rows = run(tmp_path, "ecso", ["bad", said, "a caption", "a safe answer"])
    assert [row.answer for row in rows] == ["a safe answer"] * 3
    first, _, caption, last = seen[:4]
    assert [shown(messages) for messages in seen[:4]] == [True, True, True, False]
    assert last[-1].text == f"a caption {first[-1].text}"
    assert "Do not answer this" in caption[0].text


def test_ecso_leaves_text_alone(tmp_path):
    xstest(tmp_path)
    model = ScriptedModel(answers=["one answer"])
    evaluate(Plan([f"xstest:{tmp_path}"], arms=["ecso"]), tmp_path / "out", target=Target("scripted", model))
    assert len(model.seen) == 2


@pytest.mark.parametrize("name", [*PEERS, *READINGS, "steering"])
def test_arms_that_read_hidden_states_refuse_an_api(name):
    with pytest.raises(EvaluationError, match="needs a local model"):
        arm_named(name).around(Target("api", ScriptedModel()))


def test_a_chat_model_rewrites_for_itself(tmp_path):
    seen, rows = run(tmp_path, "rewriting", [ALLOW, "an answer"])
    assert [row.answer for row in rows] == ["an answer"] * 3
    assert len(seen) == 6


def test_the_testbed_needs_an_adapter_to_rewrite(target):
    with pytest.raises(EvaluationError, match="without a trained adapter"):
        arm_named("rewriting").around(replace(target, adapter=None))


def test_the_adaptive_guard_answers_what_its_probe_clears_and_needs_one(target):
    harmless = [r.message() for r in Cell("textual", "text", harmful=False).sample(4)]
    harmful = [r.message() for r in Cell("drawn", "poster", harmful=True).sample(4)]
    defence = arm_named("full_adaptive").around(target)
    states = defence.build([]).batch([{"messages": [message]} for message in (*harmless, *harmful)])
    rewritten = ["rewrite" in state["verdict"]["timings"] for state in states]
    assert rewritten == [False] * 4 + [True] * 4
    with pytest.raises(EvaluationError, match="has no probe"):
        arm_named("full_adaptive").around(replace(target, loaded=replace(target.loaded, probe=None)))
