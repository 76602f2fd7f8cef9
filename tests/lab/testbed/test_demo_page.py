"""What the demo says of a verdict."""

import pytest

from vlmguard_lab.testbed.demo import risk_words


@pytest.mark.parametrize(("risk", "words"), [(None, "risk not judged"), (0.0, "risk 0.00"), (0.874, "risk 0.87")])
def test_a_turn_that_nobody_judged_has_no_number(risk, words):
    assert risk_words({"risk": risk}) == words
