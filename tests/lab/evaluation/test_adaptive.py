from dataclasses import replace

import pytest
from langchain_core.messages import HumanMessage

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.models.chat_format import to_chat_row
from tests.chat_models import ScriptedModel
from vlmguard_lab.evaluation.adaptive import (
    _adapter,
    _admitted,
    attack_by_pictures,
    attack_by_suffixes,
    picture_requests,
)
from vlmguard_lab.evaluation.arms.base import Target
from vlmguard_lab.evaluation.arms.guards import rewriter_for
from vlmguard_lab.evaluation.arms.registry import arm_named, load_target
from vlmguard_lab.evaluation.attacks.objective import attack_loss
from vlmguard_lab.evaluation.attacks.pictures import encode_batch
from vlmguard_lab.evaluation.attacks.suffixes import SuffixBudget
from vlmguard_lab.testbed.requests import MEANINGLESS, Cell

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def target():
    return load_target("testbed")


def test_attacked_requests_are_held_out_and_of_every_picture_kind():
    asked = picture_requests(10)
    assert [request.variant for request in asked] == [*MEANINGLESS, *MEANINGLESS, *MEANINGLESS[:2]]
    assert {request.split for request in asked} == {"held_out"}
    assert all(request.harmful for request in asked)


def test_the_plain_model_complies_without_any_attack_and_the_refusing_guard_does_not_with_one(target):
    asked = picture_requests(8)
    plain = attack_by_pictures(arm_named("none"), target, asked, 0, 1)
    assert plain["unsafe"]["hits"] >= 6
    guarded = attack_by_pictures(arm_named("gate_refuses"), target, asked, 16, 3)
    assert guarded["unsafe"]["hits"] == 0
    assert (guarded["eps"], guarded["steps"]) == (16, 3)


def test_peers_are_attacked_knowing_their_edit(target):
    found = attack_by_pictures(arm_named("shiftdc"), target, picture_requests(4), 32, 4)
    assert found["loss"][1] < found["loss"][0]


def test_suffixes_are_sent_through_the_real_graph(target):
    asked = Cell("textual", "text", harmful=True).sample(2, seed=11)
    found = attack_by_suffixes(arm_named("steering"), target, asked, SuffixBudget(4, 2, 8, 8))
    assert found["before"]["hits"] == 0
    assert len(found["curve"]) == 3
    assert found["unsafe"]["n"] == 2


def test_the_rewriter_is_attacked_as_it_runs(target):
    asked = Cell("textual", "text", harmful=True).sample(4, seed=11)
    messages = [HumanMessage(request.text) for request in asked]
    defence = arm_named("full").around(target, gate_unsafe_at=0.9)
    adapter, rewriter = _adapter(defence, target), defence.rewriter
    own = [str(a.text) for a in rewriter.model.batch([rewriter.form.ask([m]) for m in messages])]
    admitted = _admitted(defence, target, asked, messages)
    assert all(rewriter.form.parse(report).action == "allow" for report in admitted)
    rows = [to_chat_row([message], target.loaded.processor) for message in messages]
    losses = []
    for reports in (own, admitted):
        batch = encode_batch(target.loaded, rows, [r.complying for r in asked], None, reports)
        losses.append(attack_loss(target.loaded.model, batch, adapter=adapter).rewriter)
        assert attack_loss(target.loaded.model, batch).rewriter is None
    assert (losses[0] < 0.1).all()
    assert (losses[1] > losses[0]).all()


def test_a_rewriter_on_other_weights_is_met_blind(target):
    sibling = replace(target, name="sibling", adapter=None, rewriter=rewriter_for(load_target("testbed")))
    defence = arm_named("full").around(sibling, gate_unsafe_at=0.9)
    assert _adapter(defence, sibling) is None
    assert _admitted(defence, sibling, [], []) == []


def test_the_adaptive_guard_is_attacked_past_its_probe_too_and_any_way_in_counts(target):
    asked = picture_requests(4)
    found = attack_by_pictures(arm_named("full_adaptive"), target, asked, 32, 4, gate_unsafe_at=0.9)
    assert len(found["loss"]) == 4
    assert found["loss"][3] < found["loss"][2]
    words = Cell("textual", "text", harmful=True).sample(1, seed=11)
    suffixed = attack_by_suffixes(
        arm_named("full_adaptive"), target, words, SuffixBudget(4, 2, 8, 8), gate_unsafe_at=0.9
    )
    assert len(suffixed["curve"]) == 6


@pytest.mark.parametrize("name", ["self_reminder", "ecso"])
def test_a_defence_of_words_has_no_gradient_here(name, target):
    with pytest.raises(EvaluationError, match="asked once, with the request's own words"):
        attack_by_pictures(arm_named(name), target, picture_requests(1), 4, 1)


def test_an_api_has_no_gradient():
    with pytest.raises(EvaluationError, match="local VLM"):
        attack_by_suffixes(arm_named("none"), Target("api", ScriptedModel()), [], SuffixBudget())
