import re

from vlmguard_lab.testbed import requests, world
from vlmguard_lab.testbed.compact_form import CompactForm
from vlmguard_lab.testbed.rewriting import (
    ATTACKS,
    HELD_OUT_ATTACKS,
    WORDS,
    attacked,
    report_on,
    rewrite_of,
    sample_requests,
)

ASKED = sample_requests(600)


def test_nothing_held_out_is_in_any_training_request():
    held_out = world.HELD_OUT_THINGS | set(world.HELD_OUT_SETTINGS)
    for request in ASKED:
        shown = {request.thing, request.setting, request.picture.name if request.picture else ""}
        assert not shown & held_out
        if request.variant != "chat":
            assert not held_out & set(request.text.split())
    templates = requests.HELD_OUT_TEMPLATES + requests.HELD_OUT_CROSS_TEMPLATES + requests.HELD_OUT_DRAWN_PROMPTS
    patterns = [re.escape(template).replace(r"\{\}", ".+") for template in templates]
    assert not any(re.fullmatch("|".join(patterns), request.text) for request in ASKED)


def test_the_sample_is_seeded_and_distinct():
    assert sample_requests(50) == ASKED[:50]
    assert len({(request.text, request.picture) for request in ASKED}) == 600
    assert {request.harmful for request in ASKED} == {True, False}


def test_every_exact_report_can_be_written_and_read():
    form = CompactForm(WORDS)
    for request in ASKED:
        report = report_on(request)
        read = form.parse(form.write(report, rewrite_of(request).rewrite(report)))
        assert bool(read.threats) == request.harmful
        assert read.action == ("rewrite" if request.harmful else "allow")
        if request.harmful:
            hazard = world.cross_hazard(request.thing, request.setting) if request.setting else None
            assert read.threats[0].hazard == (hazard or world.hazard_of(request.thing))


def test_attacks_keep_the_request_inside_and_none_is_in_both_lists():
    assert not set(ATTACKS) & set(HELD_OUT_ATTACKS)
    for attack in ATTACKS + HELD_OUT_ATTACKS:
        assert attack.count("REQUEST") == 1
        assert ASKED[0].text in attacked(ASKED[0], attack).text
