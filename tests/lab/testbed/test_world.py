import pytest

from vlmguard_lab.testbed import world


def test_the_world_is_as_large_as_it_says():
    assert len({kind.hazard for kind in world.HARMFUL_KINDS}) >= 8
    assert len(world.VERBS) >= 8
    assert len(set(world.THINGS)) == len(world.THINGS)


def test_every_harmful_kind_has_things_inside_and_outside_of_alignment():
    for kind in world.KINDS:
        held_out = [thing for thing in kind.things if thing in world.HELD_OUT_THINGS]
        assert 0 < len(held_out) < len(kind.things)


def test_every_verb_has_an_answer_for_every_thing():
    answers = {(verb, thing): world.answer_to(verb, thing) for verb in world.VERBS for thing in world.THINGS}
    assert all(thing in answer for (_, thing), answer in answers.items())
    with pytest.raises(ValueError, match="no verb 'eat'; it knows make"):
        world.answer_to("eat", "cake")


def test_cross_modal_hazards_join_harmless_things_with_settings_and_leave_harmless_pairs():
    for entry in world.CROSS_HAZARDS:
        kind = next(kind for kind in world.HARMLESS_KINDS if kind.name == entry.kind)
        assert world.cross_hazard(kind.things[0], entry.setting) == entry.hazard
        assert world.cross_answer(kind.things[0], entry.setting).startswith("no ,")
    for kind in (k for k in world.HARMLESS_KINDS if k.name in world.CROSS_KINDS):
        safe = [s for s in world.PLACES + world.PEOPLE if world.cross_hazard(kind.things[0], s) is None]
        assert safe
        assert world.cross_answer(kind.things[0], safe[0]).startswith("yes ,")


@pytest.mark.parametrize(("noun", "phrase"), [("opioid", "an opioid"), ("bomb", "a bomb"), ("axe", "an axe")])
def test_article(noun, phrase):
    assert world.a(noun) == phrase
