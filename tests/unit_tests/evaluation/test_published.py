"""What docs/evaluation.md says is what was measured, of the arms that the code has, and its code runs."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from langchain_vlmguard.evaluation.arms.registry import ARMS
from langchain_vlmguard.evaluation.statistics import Share
from langchain_vlmguard.evaluation.suites.registry import READERS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/evaluation.md"


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "docs/results/evaluation.json").read_text())


def benchmark():
    spec = importlib.util.spec_from_file_location("evaluate_benchmark", ROOT / "benchmarks/evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_page_is_that_of_the_results(results):
    page = PAGE.read_text()
    tables = benchmark().tables(results)
    assert len(tables) == 9
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in page, name


def test_published_arms_have_the_formulas_of_the_code(results):
    for name, arm in results["arms"].items():
        card = ARMS[name].card
        assert (arm["formula"], arm["evidence"], arm["caveat"]) == (card.formula, card.evidence, card.caveat)


def test_published_shares_carry_their_intervals(results):
    for row in (
        *results["cells"],
        *results["pooled"],
        *results["attacks"]["pictures"],
        *results["attacks"]["suffixes"],
    ):
        share = row["unsafe"]
        assert Share(share["hits"], share["n"]).to_json() == share
    assert len(results["seeds"]) >= 2
    assert {"seconds", "machine", "date", "versions"} <= set(results)


def test_every_arm_was_asked_the_same(results):
    pooled = [row for row in results["pooled"] if row["suite"] == "testbed" and row["judge"] == "oracle"]
    for harmful in (True, False):
        assert len({row["n"] for row in pooled if row["harmful"] == harmful}) == 1
    assert {row["arm"] for row in pooled} == set(results["arms"])


def test_tuned_options_are_those_that_were_measured(results):
    for name, trials in results["tuning"].items():
        if trials:
            scores = [min(t["safe"], t["kept"]) + 0.1 * (t["safe"] + t["kept"]) for t in trials]
            assert scores == sorted(scores, reverse=True)
            chosen = results["arms"][name]["options"]
            assert trials[0]["options"].items() <= chosen.items()


def test_the_page_names_every_set():
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in READERS)


def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 - the page's own code
    assert (tmp_path / "my-evaluation/report.html").is_file()
    assert names["log"].status == "success"
    assert "'ci95'" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        if not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target
