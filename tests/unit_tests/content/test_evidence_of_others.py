"""Pictures that nobody here made: FigStep's typographic jailbreaks and MOSSBench's photographs."""

import csv
import difflib
import os
import re
from pathlib import Path

import pytest

from langchain_vlmguard import EvidenceReader
from langchain_vlmguard.content.checking import check_picture
from langchain_vlmguard.verdict.limits import ImageLimits

pytest.importorskip("rapidocr")
pytest.importorskip("zxingcpp")
DATA = Path(os.environ.get("VLMGUARD_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


def folder(name):
    places = [DATA, *(parent / "shared" / "data" for parent in Path(__file__).parents)]
    found = [place / name for place in places if (place / name).is_dir()]
    if not found:
        pytest.skip(f"{name} is not here: set VLMGUARD_TEST_DATA to the folder that holds it")
    return found[0]


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
    with (folder("figstep") / "SafeBench-Tiny.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_instructions_of_figstep_are_read():
    assert word_accuracy(figstep_rows()[::17], folder("figstep") / "images") >= 0.98


@pytest.mark.slow
def test_all_instructions_of_figstep_are_read():
    rows = figstep_rows()
    assert len(rows) >= 50
    assert word_accuracy(rows, folder("figstep") / "images") >= 0.98


def false_instructions(paths):
    return [path.name for path in paths if read(path).requests]


def test_photographs_give_no_instruction():
    assert false_instructions(sorted((folder("mossbench") / "images").glob("*.jpg"))[:3]) == []


@pytest.mark.slow
def test_of_sixteen_photographs_at_most_one_gives_an_instruction():
    paths = sorted((folder("mossbench") / "images").glob("*.jpg"))
    assert len(paths) >= 16
    assert len(false_instructions(paths)) <= 1
