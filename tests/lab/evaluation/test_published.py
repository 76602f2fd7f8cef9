"""What the pages on evaluation say is what was measured, of the arms that the code has, and their code runs."""

import json
import re
from pathlib import Path
from textwrap import indent

import pytest

from tests.pages import blocks_of, run_page
from vlmguard_lab.bench import outside_tools
from vlmguard_lab.bench.evaluation import run, tables
from vlmguard_lab.bench.evaluation.gather import as_json
from vlmguard_lab.bench.page import marked
from vlmguard_lab.evaluation.arms.registry import ARMS
from vlmguard_lab.evaluation.suites.registry import READERS
from vlmguard_lab.statistics import Share

ROOT = Path(__file__).parents[3]
PAGE, RESULTS = ROOT / "docs/evaluation.md", ROOT / "docs/testbed_results.md"


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "docs/results/evaluation.json").read_text())


def test_every_table_of_the_page_is_that_of_the_results(results):
    page = RESULTS.read_text()
    made = tables.tables(results)
    assert len(made) == 13
    for name, table in made.items():
        assert marked(name, table) in page, name
    assert indent(marked("evaluation", tables.summary(results)), "  ") in (ROOT / "docs/results.md").read_text()


def test_the_table_of_outside_tools_is_that_of_their_results():
    results = json.loads((ROOT / "docs/results/outside_tools.json").read_text())
    table = outside_tools.table(results)
    assert len(table.splitlines()) > 2
    assert marked("outside tools", table) in RESULTS.read_text()


def test_the_results_are_written_as_they_are_read(results):
    assert json.loads(as_json(results)) == results
    assert as_json(results) == (ROOT / "docs/results/evaluation.json").read_text()


def test_a_table_without_a_place_on_the_page_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    text = "<!-- begin measured -->\n<!-- end measured -->\n"
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match="no place for 'goals'"):
        run.publish()
    assert (tmp_path / "page.md").read_text() == text


def test_published_arms_have_the_formulas_of_the_code(results):
    for name, arm in results["arms"].items():
        card = ARMS[name].card
        assert (arm["formula"], arm["evidence"], arm["caveat"]) == (card.formula, card.evidence, card.caveat)


def test_published_shares_carry_their_intervals(results):
    targets = results["targets"].values()
    for row in (
        *results["cells"],
        *results["pooled"],
        *results["conversations"],
        *(row for target in targets for row in (*target["pooled"], *target["cells"])),
        *results["attacks"]["pictures"],
        *results["attacks"]["suffixes"],
        *results["parts"],
    ):
        share = row["unsafe"]
        assert Share(share["hits"], share["n"]).to_json() == share
    assert len(results["seeds"]) >= 2
    assert {"seconds", "machine", "date", "versions"} <= set(results)


def test_arms_of_a_kind_were_asked_the_same_on_every_target(results):
    for target in results["targets"].values():
        for harmful in (True, False):
            rows = [row for row in target["pooled"] if row["harmful"] == harmful]
            for wide in (True, False):
                assert len({row["n"] for row in rows if (row["arm"] in results["wide"]) is wide}) <= 1
        assert {row["arm"] for row in target["pooled"]} | set(target["skipped"]) == set(results["arms"])


def test_what_is_pooled_is_the_sum_of_the_targets(results):
    for row in results["pooled"]:
        own = [
            one
            for target in results["targets"].values()
            for one in target["pooled"]
            if (one["arm"], one["harmful"]) == (row["arm"], row["harmful"])
        ]
        assert row["n"] == sum(one["n"] for one in own)
        for measure in ("unsafe", "refused", "useful"):
            assert row[measure]["hits"] == sum(one[measure]["hits"] for one in own)


def test_tuned_options_are_those_that_were_measured(results):
    for target in results["targets"].values():
        for name, trials in target["tuning"].items():
            scores = [min(t["safe"], t["kept"]) + 0.1 * (t["safe"] + t["kept"]) for t in trials]
            assert scores == sorted(scores, reverse=True)
            assert trials[0]["options"].items() <= target["options"][name].items()


@pytest.mark.parametrize("guard", ["full", "full_adaptive", "full_answer_first"])
def test_the_best_peer_refuses_no_more_than_the_guard(results, guard):
    best, over = tables.best_peer(results, guard), results["pooled"]
    assert best not in tables.OURS
    rows = {row["arm"]: row for row in over if not row["harmful"]}
    harmful = {row["arm"]: row for row in over if row["harmful"]}
    allowed = [arm for arm in rows if arm not in tables.OURS]
    allowed = [arm for arm in allowed if rows[arm]["refused"]["value"] <= rows[guard]["refused"]["value"]]
    if best is None:
        assert not allowed
    else:
        assert harmful[best]["unsafe"]["value"] == min(harmful[arm]["unsafe"]["value"] for arm in allowed)


def test_the_page_names_every_set():
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in READERS)


def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(blocks_of(PAGE)) == 2
    names = run_page(PAGE, monkeypatch)
    assert (tmp_path / "my-evaluation/report.html").is_file()
    assert names["log"].status == "success"
    assert "'ci95'" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        if not target.startswith("http"):
            assert (PAGE.parent / target).exists(), target
