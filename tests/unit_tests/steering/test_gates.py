import math

import pytest
import torch

from langchain_vlmguard.steering.gates import AlwaysOpen, ClassStats, MidpointGate, ReluGate, ZeroGate

STATS = ClassStats(torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([2.0]))
COORDINATES = torch.tensor([-1.0, 1.0, 3.0, 4.0, 5.0, 9.0])


@pytest.mark.parametrize(
    ("gate", "strengths", "threshold"),
    [
        (ZeroGate(), [0, 1, 1, 1, 1, 1], 0.0),
        (MidpointGate(), [0, 0, 0, 1, 1, 1], 3.0),
        (MidpointGate(position=0.25), [0, 0, 1, 1, 1, 1], 2.0),
        (ReluGate(), [0, 0, 0, 0.5, 1, 1], 3.0),
        (AlwaysOpen(), [1, 1, 1, 1, 1, 1], -math.inf),
    ],
)
def test_strength_and_threshold(gate, strengths, threshold):
    reading = gate.read(COORDINATES, STATS)
    assert reading.strength.tolist() == strengths
    assert reading.threshold.tolist() == [threshold] * len(COORDINATES)
    assert torch.equal(reading.score, COORDINATES)


def test_risk_is_the_posterior_of_two_equal_gaussians():
    risk = STATS.risk(torch.tensor([3.0, 5.0, 1.0]))
    log_odds = lambda c: ((c - 1.0) ** 2 - (c - 5.0) ** 2) / (2 * 2.0**2)  # noqa: E731
    expected = [1 / (1 + math.exp(-log_odds(c))) for c in (3.0, 5.0, 1.0)]
    assert risk.tolist() == pytest.approx(expected)


def test_statistics_of_two_groups():
    harmful, harmless = torch.tensor([[2.0], [4.0]]), torch.tensor([[0.0], [0.0]])
    stats = ClassStats.of(harmful, harmless)
    assert (stats.harmful.item(), stats.harmless.item()) == (3.0, 0.0)
    assert stats.spread.item() == pytest.approx(math.sqrt(0.5))
    assert stats.midpoint.item() == 1.5
    assert stats.separability.item() == pytest.approx(3.0 / math.sqrt(0.5))
