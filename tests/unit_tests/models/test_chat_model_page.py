"""The page's code runs, and its table is that of the results."""

import json
from pathlib import Path

import pytest

from tests.pages import blocks_of, run_page
from vlmguard_lab.bench.architectures import table
from vlmguard_lab.bench.page import marked

ROOT = Path(__file__).parents[3]


def test_the_pages_python_runs(monkeypatch):
    pytest.importorskip("llguidance")
    page = ROOT / "docs/chat_model.md"
    assert len(blocks_of(page)) >= 4
    run_page(page, monkeypatch)


def test_the_pages_table_is_that_of_the_results():
    rows = json.loads((ROOT / "docs/results/architectures.json").read_text())["rows"]
    assert marked("architectures", table(rows)) in (ROOT / "docs/chat_model.md").read_text()
    assert {row["outcome"] for row in rows} == {"works"}
