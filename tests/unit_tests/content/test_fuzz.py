"""Coverage-guided fuzzing of the reading: a few cases in the lab's tests, a million where asked (`-m slow`, or `make fuzz`)."""

import pytest
from rich.progress import Progress

from tests.fuzz import ENDPOINT, HUNT, PDFS, TARGETS, fuzz

pytest.importorskip("atheris", reason="Atheris is made for Linux and macOS alone")
pytestmark = pytest.mark.lab


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cases", [2_000, pytest.param(500_000, marks=pytest.mark.slow)])
def test_nothing_read_breaks_or_slips_by(target, cases, tmp_path):
    with Progress() as progress:
        seen = fuzz(target, cases, tmp_path, progress)
    assert seen["cases"] == cases
    assert seen["pictures"] > cases // 100


@pytest.mark.parametrize("cases", [50, pytest.param(100_000, marks=pytest.mark.slow)])
def test_nothing_blocked_is_found_again(cases, tmp_path):
    with Progress() as progress:
        seen = fuzz(HUNT, cases, tmp_path, progress)
        assert fuzz(HUNT, cases + 1, tmp_path, progress)["cases"] >= cases + 1, "it goes on after a stop"
    assert seen["cases"] == cases
    assert seen["pictures"] > cases // 2


@pytest.mark.parametrize("cases", [100, pytest.param(20_000, marks=pytest.mark.slow)])
def test_no_pdf_breaks_out_of_its_bounds(cases, tmp_path):
    pytest.importorskip("pypdfium2")
    with Progress() as progress:
        first = fuzz(PDFS, cases // 2, tmp_path, progress)
        seen = fuzz(PDFS, cases, tmp_path, progress)
    assert (first["cases"], seen["cases"]) == (cases // 2, cases), "it goes on after a stop"
    assert seen["pictures"] > cases // 5


def test_a_target_that_ends_early_is_an_error(tmp_path):
    with Progress() as progress, pytest.raises(AssertionError, match="broke after 0 cases"):
        fuzz("no such target", 1, tmp_path, progress)


def test_the_endpoint_is_played_and_goes_on_after_a_stop(tmp_path):
    with Progress(disable=True) as progress:
        seen = fuzz(ENDPOINT, 40, tmp_path, progress)
        assert seen["cases"] == 40
        assert 0 < seen["pictures"] < 40
        assert fuzz(ENDPOINT, 60, tmp_path, progress)["cases"] == 60
