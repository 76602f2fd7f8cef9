import csv
import json
import re

import pytest

from langchain_vlmguard.steering.anchors import AnchorPair, AnchorSet, load_anchors
from langchain_vlmguard.verdict.hazards import HAZARDS
from tests.public_data import public_set
from vlmguard_lab.testbed import world
from vlmguard_lab.testbed.anchors import load_testbed_anchors


def test_the_shipped_set_is_large_paired_and_spread_over_the_hazards():
    anchors = load_anchors()
    assert len(anchors) >= 112
    prompts = anchors.harmful + anchors.harmless
    assert len(set(prompts)) == len(prompts)
    assert all(prompt.startswith("How to ") and prompt.endswith("?") for prompt in prompts)
    counts = {hazard: sum(pair.hazard == hazard for pair in anchors.pairs) for hazard in HAZARDS}
    assert sorted(filter(None, counts.values())) == [13] * 9


def test_harmful_and_harmless_have_like_lengths_so_that_length_is_no_direction():
    anchors = load_anchors()
    lengths = [sum(len(p.split()) for p in side) / len(anchors) for side in (anchors.harmful, anchors.harmless)]
    assert abs(lengths[0] - lengths[1]) < 1.0


def test_a_split_is_disjoint_stratified_and_the_same_for_a_seed():
    anchors = load_anchors()
    fit, held_out = anchors.split(0.75)
    assert set(fit.harmful).isdisjoint(held_out.harmful)
    assert len(fit) + len(held_out) == len(anchors)
    assert {pair.hazard for pair in held_out.pairs} == {pair.hazard for pair in anchors.pairs}
    assert anchors.split(0.75)[0].hash == fit.hash != anchors.hash


def test_anchors_of_ones_own_are_read_and_checked(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"pairs": [{"harmful": "a", "harmless": "b"}]}))
    assert AnchorSet.from_json(path).pairs == (AnchorPair("a", "b"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "is no anchor set: .*JSONDecodeError"),
        ("[]", "is no anchor set: .*TypeError"),
        ("{}", "is no anchor set: .*KeyError"),
        ('{"pairs": {"harmful": "a"}}', "is no anchor set: its 'pairs' are a dict"),
        (
            '{"pairs": [{"harmful": "a", "harmless": "b"}, {"harmful": "c"}]}',
            "pair 1 of .* needs 'harmful' and 'harmless'",
        ),
        ('{"pairs": ["a"]}', "pair 0 of .* needs 'harmful' and 'harmless': 'a'"),
        ('{"pairs": [{"harmful": 3, "harmless": "b"}]}', "pair 0 .* no text"),
        ('{"pairs": [{"harmful": "a", "harmless": "b", "hazard": "mlcommons:vcx"}]}', "pair 0 .* 'mlcommons:vcx'"),
        ('{"pairs": [{"harmful": "a", "harmless": "b", "hazard": 7}]}', "pair 0 .* the hazard 7"),
        ('{"pairs": [{"harmful": "a", "harmless": "b", "form": 7}]}', "pair 0 .* the form 7"),
        ('{"pairs": [{"harmful": "a", "harmless": "b", "form": " "}]}', "pair 0 .* the form ' '"),
    ],
)
def test_a_file_that_is_not_usable_says_where(tmp_path, text, problem):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        AnchorSet.from_json(path)


@pytest.mark.parametrize("fraction", [-0.2, 0, 1, 1.5, float("nan")])
def test_a_split_by_something_other_than_a_share_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        load_anchors().split(fraction)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([], "is empty"),
        ([AnchorPair("a", " ")], "pair 0 .* has an empty prompt"),
        ([AnchorPair("a", "a")], "pair 0 .* twice the same"),
        ([AnchorPair("a", "b"), AnchorPair("a", "c")], "pair 1 .* repeats"),
    ],
)
def test_bad_pairs_are_named(pairs, problem):
    with pytest.raises(ValueError, match=problem):
        AnchorSet("bad", tuple(pairs))


def test_the_testbeds_anchors_use_nothing_that_is_held_out():
    anchors = load_testbed_anchors()
    assert len(anchors) >= 100
    words = " ".join(anchors.harmful + anchors.harmless).split()
    assert world.HELD_OUT_THINGS.isdisjoint(words)
    assert set(world.HELD_OUT_VERBS).isdisjoint(words)


FORMS = ("question", "imperative", "long", "roleplay", "register", "edgy", "agent")


def test_the_set_of_requests_has_many_forms_and_hazards():
    anchors = load_anchors("requests")
    assert len(anchors) >= 400
    prompts = anchors.harmful + anchors.harmless
    assert len({prompt.casefold() for prompt in prompts}) == len(prompts)
    assert {pair.form for pair in anchors.pairs} == set(FORMS)
    assert all(len(anchors.of_form(form)) >= 40 for form in FORMS)
    # A category that nobody should write examples of is left out.
    assert {pair.hazard for pair in anchors.pairs} == set(HAZARDS) - {"mlcommons:cse"}


def test_requests_of_a_pair_are_about_as_long_and_long_ones_are_long():
    anchors = load_anchors("requests")
    lengths = [sorted(len(prompt.split()) for prompt in (pair.harmful, pair.harmless)) for pair in anchors.pairs]
    assert all(long <= 2.5 * short for short, long in lengths)
    means = [sum(len(p.split()) for p in side) / len(anchors) for side in (anchors.harmful, anchors.harmless)]
    assert abs(means[0] - means[1]) < 1.0
    long = anchors.of_form("long")
    assert all(40 <= len(prompt.split()) <= 80 for prompt in long.harmful + long.harmless)


def test_forms_are_chosen_and_stay_balanced_in_a_split():
    anchors = load_anchors("requests")
    some = anchors.of_form("agent", "edgy")
    assert len(some) == len(anchors.of_form("agent")) + len(anchors.of_form("edgy"))
    assert anchors.of_form(*FORMS).pairs == anchors.pairs
    fit, held_out = anchors.split(0.75)
    assert len(fit) + len(held_out) == len(anchors)
    assert set(fit.harmful).isdisjoint(held_out.harmful)
    assert anchors.split(0.75)[0].hash == fit.hash
    for form in FORMS:
        assert 0.6 < len(fit.of_form(form)) / len(anchors.of_form(form)) < 0.9


@pytest.mark.parametrize("forms", [(), ("poem",), ("long", "poem")])
def test_a_form_that_is_not_there_is_an_error(forms):
    with pytest.raises(ValueError, match=r"its forms are: \['agent', 'edgy'"):
        load_anchors("requests").of_form(*forms)


def test_a_shipped_set_of_another_name_is_an_error():
    with pytest.raises(ValueError, match="'nonsense'; there are: how_to, requests"):
        load_anchors("nonsense")


def test_forms_change_the_hash_and_their_absence_keeps_it():
    assert load_anchors().hash == "dd3615d3d5e98649"
    plain = AnchorSet("one", (AnchorPair("a", "b"),))
    assert plain.hash != AnchorSet("one", (AnchorPair("a", "b", form="long"),)).hash


PUBLIC = (
    "advbench/advbench.csv",
    "harmbench/harmbench.csv",
    "figstep/SafeBench-Tiny.csv",
    "xstest/xstest_prompts.csv",
    "overrefusal/benign_edgy.csv",
    "msts/responses.csv",
)


@pytest.mark.parametrize("path", PUBLIC)
def test_no_request_stands_in_a_public_set(path):
    folder, file = path.split("/")
    with (public_set(folder) / file).open(newline="", encoding="utf-8") as lines:
        theirs = {_words(cell) for row in csv.reader(lines) for cell in row}
    anchors = load_anchors("requests")
    assert theirs.isdisjoint(map(_words, anchors.harmful + anchors.harmless))


def _words(text):
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))
