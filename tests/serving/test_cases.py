"""Every rule has a test that is named after it."""

from tests.serving.cases import CASES, Tally, named_tests

ELSEWHERE = {31, 32, 33}
"""Rules of hooks and filters, which may be tested apart from the server."""


def test_every_rule_has_a_test():
    found = named_tests()
    assert found.keys() <= CASES.keys()
    assert CASES.keys() - found.keys() <= ELSEWHERE


def test_a_rule_holds_if_a_test_passes_and_none_fails():
    tally = Tally()
    tally.outcomes[1].update(passed=3)
    tally.outcomes[2].update(passed=3, failed=1)
    tally.outcomes[3].update(skipped=1)
    assert tally.found["passed"] == 1
    assert 1 not in tally.found["open"]
    assert {2, 3, 4} <= {*tally.found["open"]}
