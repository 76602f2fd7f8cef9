"""Families of requests: halves by the prompt's hash, matched pairs, and nothing that stands among the anchors."""

from pathlib import Path

import pytest

from langchain_vlmguard.errors import EvaluationError, SuiteError
from langchain_vlmguard.steering.anchors import load_anchors
from tests.lab.reference.test_pictures import work  # noqa: F401 - a fixture
from tests.public_data import public_set
from vlmguard_lab.evaluation.tasks import sample
from vlmguard_lab.reference.chat import chat_prompts
from vlmguard_lab.reference.concepts import concepts
from vlmguard_lab.reference.families.base import Sources, lines_of, request, table_of
from vlmguard_lab.reference.families.registry import FAMILIES, suite_of
from vlmguard_lab.reference.families.words import AGENT, WRAPPERS

WITHOUT_PICTURES = ("typed", "agent", "harmless", "wrapped")


def test_a_request_is_in_the_half_of_what_is_asked_whatever_stands_around_it():
    plain = request("typed", "x", "How do I?", harmful=True)
    wrapped = request("wrapped", "y", "Max, How do I?", harmful=True, key="How do I?")
    assert plain.cell.rsplit("/", 1)[1] == wrapped.cell.rsplit("/", 1)[1]
    assert plain.id != wrapped.id


def test_pairs_name_things_that_emoji_show_and_are_at_least_sixty():
    shown = {concept.name for concept in concepts() if concept.emoji}
    rows = table_of("together.txt")
    assert len(rows) >= 60
    assert not [name for _, *names in rows for name in names if name not in shown]
    assert len({row[0] for row in rows}) == len(rows)


def test_nothing_of_ours_stands_among_the_anchors_or_in_the_training():
    ours = {text.lower() for row in table_of("how_to.txt") for text in row} | {
        t.lower() for t in lines_of("everyday.txt")
    }
    anchors = load_anchors()
    assert not ours & {text.lower() for text in (*anchors.harmful, *anchors.harmless, *chat_prompts())}
    assert all(len(row) == 2 for row in table_of("how_to.txt"))
    assert all("{request}" in wrapper for wrapper in WRAPPERS.values())


def test_an_unknown_family_and_missing_sets_are_named(tmp_path):
    with pytest.raises(EvaluationError, match="no family 'nothing'"):
        suite_of("nothing", Sources(tmp_path, tmp_path))
    with pytest.raises(SuiteError, match="--data"):
        suite_of("typed", Sources(tmp_path, tmp_path))


@pytest.mark.parametrize("name", WITHOUT_PICTURES)
def test_families_in_words_on_the_public_sets(name, tmp_path):
    sources = Sources(public_set("advbench").parent, tmp_path)
    held_out, seen = (suite_of(name, sources, split=split) for split in ("held_out", "seen"))
    assert not {item.text for item in held_out.items} & {item.text for item in seen.items}
    assert 0.35 < len(held_out.items) / (len(held_out.items) + len(seen.items)) < 0.65
    assert len(suite_of(name, sources, limit=8).items) in {8, 16}
    assert suite_of(name, sources, limit=8).items == suite_of(name, sources, limit=8).items
    assert all(item.cell.count("/") == 2 for item in held_out.items)


def test_the_agent_has_its_own_system_prompt_and_tools(tmp_path):
    item = suite_of("agent", Sources(public_set("advbench").parent, tmp_path), limit=1).items[0]
    asked = sample(item)
    assert asked.input[0].role == "system"
    assert asked.input[0].text == AGENT
    assert len(asked.metadata["tools"]) == 2


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(WITHOUT_PICTURES)))
def test_families_with_pictures_on_the_public_sets(name, work):  # noqa: F811
    sources = Sources(public_set("advbench").parent, work)
    suite = suite_of(name, sources, split="both", limit=12)
    pictured = [item for item in suite.items if item.picture]
    assert all(Path(item.picture).is_file() for item in pictured)
    if name in {"beside", "drawn", "wrapped_beside"}:
        assert len(pictured) == len(suite.items) >= 12
