import pytest

from vlmguard_lab.statistics import Share
from vlmguard_lab.testbed.judge import Outcome
from vlmguard_lab.testbed.measure import CellResult
from vlmguard_lab.testbed.requests import Cell


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 200, 0.0, 0.01885), (200, 200, 0.98115, 1.0), (10, 200, 0.02738, 0.08958), (50, 100, 0.40383, 0.59617)],
)
def test_wilson_interval(hits, n, low, high):
    assert Share(hits, n).ci95 == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_knows_nothing():
    assert Share(0, 0).value == 0.0
    assert Share(0, 0).ci95 == (0.0, 1.0)


def test_a_row_of_the_published_json():
    cell = Cell("textual", "text", harmful=True)
    asked = cell.sample(3)
    row = CellResult.of(cell, "plain", asked, [asked[0].right, asked[1].complying, "?"]).row()
    assert (row["n"], row["unsafe"], row["refused"]) == (3, 0.3333, 0.3333)
    assert row["outcomes"][Outcome.COMPLIED.value] == 1
    assert set(row) == {
        "family",
        "variant",
        "harmful",
        "split",
        "arm",
        "n",
        "unsafe",
        "refused",
        "helpful",
        "correct",
        "ci95",
        "outcomes",
    }
