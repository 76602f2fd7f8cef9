import json
from pathlib import Path

from tests.pages import run_page
from vlmguard_lab.bench.rewriter_transfer import tables

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/rewriting.md"
RESULTS = ROOT / "docs/results/rewriter_transfer.json"


def test_the_documents_python_runs(monkeypatch):
    names = run_page(DOCUMENT, monkeypatch)
    assert names["state"]["verdict"]["action"] == "rewrite"
    assert "is not safe" in names["state"]["messages"][-1].text


def test_the_documents_tables_are_those_of_the_results():
    results = json.loads(RESULTS.read_text())
    assert tables(results) in DOCUMENT.read_text()


def test_the_published_rows_hold_what_they_promise():
    results = json.loads(RESULTS.read_text())
    assert {"rows", "seconds", "versions", "seed"} <= set(results)
    for row in results["rows"]:
        assert {"target", "family", "split", "arm", "n", "unsafe", "useful", "benign_correct", "ci95"} <= set(row)
        assert row["n"] >= 200 or row["variant"] == "kind"
