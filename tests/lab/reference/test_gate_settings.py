"""The gate by setting, on real rows: resumed, and the same everywhere for a gate that reads the request alone."""

from dataclasses import replace

import pytest

from langchain_vlmguard import Steering
from langchain_vlmguard.files import read_json
from tests.public_data import public_set
from vlmguard_lab.bench.reference import settings


@pytest.fixture
def loaded(testbed, monkeypatch):
    found = replace(testbed)
    choice = {**found.directions.card.choice, "reads": "request"}
    found = replace(found, directions=found.directions.with_choice(choice))
    assert Steering.recommended(found.directions).reads == "request"
    monkeypatch.setattr(settings, "_loaded", lambda _checkpoint: found)
    return found


def test_every_set_is_measured_in_every_setting_with_one_threshold(loaded, tmp_path, monkeypatch):
    public = public_set("advbench").parent
    work, output = tmp_path / "work", tmp_path / "rows.json"
    settings.run("testbed", public, work, output, split="seen", limit=6)
    found = read_json(output)
    rows = found["gate_settings"]
    assert {row["condition"] for row in rows} == set(settings.settings())
    assert {"advbench", "harmbench", "xstest_unsafe", "xstest_safe", "overrefusal"} <= {row["set"] for row in rows}
    for name in {row["set"] for row in rows}:
        own = [row for row in rows if row["set"] == name]
        assert len({row["opens"] for row in own}) == 1
        assert {(row["n"], row["reads"], row["calibration"]) for row in own} == {(6, "request", "anchors")}
    monkeypatch.setattr(settings, "scored", lambda *_: pytest.fail("a finished part was run again"))
    settings.run("testbed", public, work, output, split="seen", limit=6)
    assert read_json(output)["gate_settings"] == rows
