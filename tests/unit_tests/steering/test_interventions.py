"""The kernel's arithmetic, against DESIGN's formulas written out with matrices."""

import pytest
import torch

from langchain_vlmguard.steering.gates import ClassStats
from langchain_vlmguard.steering.interventions import Amplify, Fulfil, LayerEdit, ProjectOut, Push, Restore, Transplant

HIDDEN, ROWS = 8, 3


def orthonormal(rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(HIDDEN, rank, generator=generator)).Q.T


def stats(harmful, harmless):
    return ClassStats(torch.tensor([harmful]), torch.tensor([harmless]), torch.tensor([1.0]))


def layer(rank=2, strength=(1.0, 1.0, 1.0), pictured=(True, True, True), reference=None):
    return LayerEdit(
        vectors=orthonormal(rank),
        strength=torch.tensor(strength),
        pictured=torch.tensor(pictured),
        text=stats(4.0, -2.0),
        picture=stats(1.0, -1.0),
        reference=reference,
    )


@pytest.fixture
def hidden():
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def query():
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("intervention", "own", "text"),
    [
        (ProjectOut(), -1, 0),
        (Amplify(alpha=0.7), 0.7, 0),
        (Transplant(alpha=0.7), 0, 0.7),
        (Fulfil(alpha=0.7), -1, 0.7),
    ],
)
def test_every_reading_is_the_kernel_of_the_design(intervention, own, text, hidden, query):
    edit = layer()
    projection = edit.vectors.T @ edit.vectors
    reference = query @ edit.vectors.T if intervention.needs_text_query else None
    edited = intervention.edit(hidden, layer(reference=reference))
    expected = hidden + own * hidden @ projection + text * query @ projection
    torch.testing.assert_close(edited, expected)


def test_fulfil_with_one_direction_is_shiftdcs_update(hidden, query):
    direction = orthonormal(1)[0]
    edited = Fulfil().edit(hidden, layer(rank=1, reference=(query @ direction)[:, None]))
    shift = hidden - query
    expected = hidden - (shift @ direction / (direction @ direction))[:, None] * direction
    torch.testing.assert_close(edited, expected)


def test_project_out_leaves_nothing_along_the_directions(hidden):
    edit = layer()
    torch.testing.assert_close(
        ProjectOut().edit(hidden, edit) @ edit.vectors.T, torch.zeros(ROWS, 2), atol=1e-6, rtol=0
    )


def test_restore_maps_the_class_means_with_a_picture_onto_those_of_text():
    edit = layer(rank=1, strength=(1.0, 1.0), pictured=(True, True))
    rest = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    rest -= (rest @ edit.vectors[0]) * edit.vectors[0]
    states = torch.stack([rest + 1.0 * edit.vectors[0], rest - 1.0 * edit.vectors[0]])
    edited = Restore().edit(states, edit)
    torch.testing.assert_close(edited @ edit.vectors[0], torch.tensor([4.0, -2.0]))
    torch.testing.assert_close(edited - (edited @ edit.vectors.T) @ edit.vectors, torch.stack([rest, rest]))


def test_restore_leaves_rows_without_a_picture_alone(hidden):
    edited = Restore().edit(hidden, layer(rank=1, pictured=(False, True, False)))
    changed = (edited != hidden).any(dim=1)
    assert changed.tolist() == [False, True, False]


def test_restore_does_not_blow_up_noise_where_the_picture_left_no_signal():
    edit = layer(rank=1, strength=(1.0,), pictured=(True,))
    squeezed = LayerEdit(edit.vectors, edit.strength, edit.pictured, edit.text, stats(1e-9, -1e-9))
    change = Restore(max_scale=5.0).change(torch.tensor([[0.1]]), squeezed)
    torch.testing.assert_close(change, torch.tensor([[4.0 + 5.0 * 0.1 - 0.1]]))


def test_a_closed_gate_changes_no_bit(hidden):
    for intervention in (ProjectOut(), Amplify(), Restore()):
        edited = intervention.edit(hidden, layer(rank=1, strength=(0.0, 0.0, 0.0)))
        assert torch.equal(edited, hidden)


def test_push_adds_the_graded_distance_of_the_text_class_means_along_the_first_direction(hidden):
    edit = layer(strength=(1.0, 0.5, 0.0), pictured=(True, False, True))
    moved = (Push(alpha=1.5).edit(hidden, edit) - hidden) @ edit.vectors.T
    torch.testing.assert_close(moved, torch.tensor([[9.0, 0.0], [4.5, 0.0], [0.0, 0.0]]))
