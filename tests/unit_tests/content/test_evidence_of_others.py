"""Pictures that nobody here made: FigStep's typographic jailbreaks and MOSSBench's photographs."""

import csv
import difflib
import re

import pytest

from langchain_vlmguard import EvidenceReader
from langchain_vlmguard.content.checking import check_picture
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.public_data import public_set

pytest.importorskip("rapidocr")
pytest.importorskip("zxingcpp")


def read(path):
    return EvidenceReader(seconds=600).read(check_picture(path.read_bytes(), ImageLimits()))


def word_accuracy(rows, images):
    """Return the share of words read, every picture being found to hold a request."""
    right = words = 0
    for row in rows:
        path = next(images.glob(f"query_*_{row['category_id']}_{row['task_id']}_6.png"))
        evidence = read(path)
        assert evidence.requests
        wanted, found = (re.findall(r"[a-z0-9']+", t.lower()) for t in (row["instruction"], evidence.shown_text))
        blocks = difflib.SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks()
        right, words = right + sum(block.size for block in blocks), words + len(wanted)
    return right / words


def figstep_rows():
    with (public_set("figstep") / "SafeBench-Tiny.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_instructions_of_figstep_are_read():
    assert word_accuracy(figstep_rows()[::17], public_set("figstep") / "images") >= 0.98


@pytest.mark.slow
def test_all_instructions_of_figstep_are_read():
    rows = figstep_rows()
    assert len(rows) >= 50
    assert word_accuracy(rows, public_set("figstep") / "images") >= 0.98


def false_instructions(paths):
    return [path.name for path in paths if read(path).requests]


def test_photographs_give_no_instruction():
    assert false_instructions(sorted((public_set("mossbench") / "images").glob("*.jpg"))[:3]) == []


@pytest.mark.slow
def test_of_sixteen_photographs_at_most_one_gives_an_instruction():
    paths = sorted((public_set("mossbench") / "images").glob("*.jpg"))
    assert len(paths) >= 16
    assert len(false_instructions(paths)) <= 1
