import math

import pytest

from vlmguard_lab.evaluation.arms.registry import arm_named, load_target
from vlmguard_lab.evaluation.perplexity import perplexity
from vlmguard_lab.evaluation.tuning import TUNING_CELLS, Tried, tune, tuning_requests
from vlmguard_lab.testbed import world
from vlmguard_lab.testbed.requests import HELD_OUT_TEMPLATES, Cell, cells

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def target():
    return load_target("testbed")


def test_nothing_that_is_held_out_is_tuned_on():
    asked = tuning_requests(20)
    assert {cell.split for cell in TUNING_CELLS} == {"seen"}
    assert not {request.thing for request in asked if request.harmful} & world.HELD_OUT_THINGS
    held_out = {(r.text, r.picture) for cell in cells("held_out") for r in cell.sample(50)}
    assert not {(request.text, request.picture) for request in asked} & held_out
    templates = [template.split("{}")[0] for template in HELD_OUT_TEMPLATES if template.split("{}")[0]]
    assert not any(request.text.startswith(tuple(templates)) for request in asked if request.harmful)


def test_every_setting_is_tried_and_the_best_stands_first(target):
    arm, seen = arm_named("restore"), []
    found = tune(arm, target, tuning_requests(4), on_tried=seen.append)
    assert len(found) == len(seen) == len(arm.grid)
    assert [tried.score for tried in found] == sorted((tried.score for tried in found), reverse=True)
    assert {str(tried.options) for tried in found} == {str(options) for options in arm.grid}


def test_of_equals_the_first_wins_and_the_weaker_side_counts():
    assert Tried({}, 1.0, 0.2).score < Tried({}, 0.5, 0.5).score
    assert Tried({}, 0.5, 0.9).score > Tried({}, 0.5, 0.5).score


def test_sense_is_more_likely_than_nonsense(target):
    right = [request.right for request in Cell("textual", "text", harmful=False).sample(20)]
    garbled = [" ".join(reversed(text.split())) for text in right]
    assert perplexity(target.loaded, right) < 0.1 * perplexity(target.loaded, garbled)
    assert perplexity(target.loaded, [*right, ""]) == pytest.approx(
        perplexity(target.loaded, right, batch_size=7), rel=1e-3
    )
    assert math.isfinite(perplexity(target.loaded, garbled))
    with pytest.raises(ValueError, match="at least one answer"):
        perplexity(target.loaded, [" "])
