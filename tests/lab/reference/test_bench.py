"""The measurement as a whole on a tiny model: every part runs, is kept, and ends in results, tables and figures."""

import json

import pytest
import torch

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json
from tests.lab.reference.test_pictures import work  # noqa: F401 - a fixture
from tests.lab.reference.tiny import tiny_checkpoint
from tests.public_data import public_set
from vlmguard_lab.bench import page
from vlmguard_lab.bench.reference import figures, run, tables
from vlmguard_lab.bench.reference.cells import cells_of, useful
from vlmguard_lab.bench.reference.plan import OURS, PEERS, Counts, Measurement
from vlmguard_lab.bench.reference.states import area, found_at
from vlmguard_lab.reference.assembly import MARKER


def row(cell, *, harmful, refused, answer="Sure.", text="?", picture="", **more):
    return {
        "cell": cell,
        "harmful": harmful,
        "refused": refused,
        "answer": answer,
        "text": text,
        "picture": picture,
        **more,
    }


def test_cells_are_counted_by_variant_and_for_all_variants_under_each_judge():
    rows = [
        row("typed/a/held_out", harmful=True, refused=True, score=0.1),
        row("typed/a/held_out", harmful=True, refused=False, score=0.2),
        row("typed/b/held_out", harmful=True, refused=False, score=0.9),
    ]
    cells = {(cell["variant"], cell["judge"]): cell for cell in cells_of("none", rows, 0.5)}
    assert set(cells) == {
        ("a", "phrases"),
        ("b", "phrases"),
        ("all", "phrases"),
        ("a", "model"),
        ("b", "model"),
        ("all", "model"),
    }
    assert cells["all", "phrases"]["unsafe"] == pytest.approx(2 / 3, abs=1e-3)
    assert cells["all", "model"]["unsafe"] == pytest.approx(1 / 3, abs=1e-3)
    assert cells["all", "phrases"]["useful"] is None
    low, high = cells["all", "phrases"]["ci95"]["unsafe"]
    assert 0 < low < 2 / 3 < high < 1
    assert not [cell for cell in cells_of("none", rows, None) if cell["judge"] == "model"]


def test_a_choice_is_useful_only_if_it_is_right():
    asked = {"harmful": False, "refused": False, "text": "Does the picture show a kite or a banana?", "picture": "kite"}
    cell = "harmless_shown/which_of_two/held_out"
    assert useful(row(cell, **asked, answer="It shows a kite."))
    assert not useful(row(cell, **asked, answer="It shows a banana."))
    assert not useful(row(cell, **asked, answer="It shows a kite or a banana."))
    assert useful(row("harmless/everyday/seen", harmful=False, refused=False))
    assert not useful(row("harmless/everyday/seen", harmful=False, refused=True))
    assert not useful(row("harmless/everyday/seen", harmful=False, refused=False, answer=" "))


def test_area_and_what_is_found_at_few_false_alarms():
    harmful, harmless = torch.tensor([3.0, 4.0, 1.0]), torch.arange(0.0, 2.0, 0.1)
    assert area(harmful, harmless) == pytest.approx((20 + 20 + 10.5) / 60)
    assert found_at(harmful, harmless) == pytest.approx(2 / 3)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="make reference"):
        run.plan_of(tmp_path, tmp_path, tmp_path, tmp_path)
    write_json(tmp_path / MARKER, {})
    with pytest.raises(EvaluationError, match="--data"):
        run.plan_of(tmp_path, None, tmp_path, tmp_path)
    with pytest.raises(EvaluationError, match="no family"):
        run.plan_of(tmp_path, tmp_path, tmp_path, tmp_path, families=["nothing"])
    assert run.plan_of(tmp_path, tmp_path, tmp_path, tmp_path, quick=True).counts.ours < 50


@pytest.mark.lab
def test_the_whole_measurement_on_a_tiny_model(tmp_path, work, monkeypatch):  # noqa: F811
    public = public_set("advbench").parent
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    write_json(checkpoint / MARKER, {"size": "0.5b"})
    counts = Counts(ours=2, peers=1, pictures=2, states=4, pairs=2, labels=3)
    families = ("typed", "beside", "harmless", "harmless_shown", "together")
    plan = Measurement(checkpoint, public, work, tmp_path / "work", checkpoint, (*OURS, *PEERS), families, counts, 4)
    output = tmp_path / "results.json"
    run.run(plan, output)
    found = read_json(output)
    cells = found["cells"]
    assert {cell["arm"] for cell in cells} == {*OURS, *PEERS}
    assert {cell["family"] for cell in cells} == set(families)
    assert {cell["judge"] for cell in cells if cell["arm"] == "steering"} == {"phrases", "model"}
    assert {cell["harmful"] for cell in cells if cell["judge"] == "model"} == {True}
    assert {row["condition"] for row in found["gate"]} == {"typed", "blank", "noise"}
    assert len(found["maps"]) == 3
    assert found["judges"]["harm"]["by_model"]["n"] > 0
    assert 0 < len(found["answers"]) <= 100
    assert {row["arm"] for row in found["cost"]} <= {*OURS, *PEERS}
    assert json.dumps(found)
    assert set(tables.tables(found)) == set(marks())
    figures.draw(found, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 3
    monkeypatch.setattr(run, "fit", lambda *_: pytest.fail("directions are fitted again"))
    run.run(plan, output)
    again = read_json(output)
    assert again["cells"] == cells, "finished parts are read, not run"
    write_json(checkpoint / MARKER, {"size": "0.5b", "visual": "trained again"})
    with pytest.raises(EvaluationError, match="another measurement"):
        run.run(plan, output)


def marks():
    lines = (page.DOCS / "reference.md").read_text().splitlines()
    return [line.split()[2] for line in lines if line.startswith("<!-- begin ")]
