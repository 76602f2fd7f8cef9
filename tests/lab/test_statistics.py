import math

import pytest

from vlmguard_lab.statistics import PairedTest, Share, kappa


def test_mcnemars_p_is_the_two_sided_binomial_of_the_discordant_pairs():
    first = [True] * 9 + [False] * 1 + [True] * 5
    second = [False] * 9 + [True] * 1 + [True] * 5
    test = PairedTest.of(first, second)
    assert (test.only_first, test.only_second, test.both, test.neither) == (9, 1, 5, 0)
    assert test.p == pytest.approx(2 * (1 + 10) / 2**10)


def test_arms_that_never_differ_have_p_one():
    assert PairedTest.of([True, False], [True, False]).p == 1
    assert PairedTest.of([], []).p == 1


def test_the_p_value_survives_thousands_of_pairs():
    assert PairedTest.of([True] * 3000, [False] * 3000).p < 1e-300
    assert PairedTest.of([True] * 5 + [False] * 5, [False] * 5 + [True] * 5).p == 1


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        PairedTest.of([True], [])


def test_kappa_of_the_textbook():
    one = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    other = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(one, other) == pytest.approx(0.4)


def test_kappa_at_its_ends():
    assert kappa([1, 0], [1, 0]) == 1
    assert kappa([1, 0], [0, 1]) == -1
    assert kappa([1, 1], [1, 1]) == 1
    with pytest.raises(ValueError, match="at least one"):
        kappa([], [])


def test_a_share_says_how_sure_it_is():
    share = Share.of([True] * 8 + [False] * 2)
    assert share.to_json() == {"hits": 8, "n": 10, "value": 0.8, "ci95": [0.4902, 0.9433]}
    assert math.isclose(Share(0, 0).value, 0)
