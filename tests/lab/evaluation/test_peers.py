"""Each peer's published formula, pinned by numbers worked out beside it."""

import pytest
import torch

from langchain_vlmguard.steering.gates import ClassStats
from langchain_vlmguard.steering.interventions import Fulfil, LayerEdit
from vlmguard_lab.evaluation.arms.peers import (
    CMRM,
    Astra,
    Cast,
    InferAligner,
    Mars,
    NullSteer,
    Seen,
    ShiftDC,
    null_projector,
    nullsteer_matrix,
)


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def one_token(state):
    return state[:, None, :]


def test_inferaligner_shifts_every_token_of_gated_rows_alone():
    # theta = (3, 4), s = (.6, .8), b = -2: the first row scores .6 + .8 - 2 < 0, the second 3 + 4 - 2 > 0
    peer = InferAligner(theta=rows([3, 4]), s=rows([0.6, 0.8]), b=rows(-2.0), alpha=0.5)
    state = rows([1, 1], [5, 5])
    hidden = state[:, None, :].repeat(1, 3, 1)
    edited = peer.edit(hidden, 0, Seen(state, torch.tensor([True, True])))
    assert torch.equal(edited[0], hidden[0])
    assert torch.allclose(edited[1], rows([6.5, 7]).expand(3, 2))
    assert peer.positions == "all"


def test_cmrm_takes_the_pictures_mean_shift_back_where_there_is_a_picture():
    peer = CMRM(shift=rows([1, -2]), alpha=2.0)
    hidden = one_token(rows([1, 1], [1, 1]))
    edited = peer.edit(hidden, 0, Seen(hidden[:, 0], torch.tensor([True, False])))
    assert torch.equal(edited[:, 0], rows([-1, 5], [1, 1]))


def test_shiftdc_removes_the_part_of_the_shift_along_s_whatever_its_length():
    # m = (3, 4) - (1, 1) = (2, 3); (m s / s s) s with s = (2, 0) is (2, 0)
    hidden = one_token(rows([3, 4]))
    for s in (rows([2, 0]), rows([10, 0])):
        seen = Seen(rows([3, 4]), torch.tensor([True]), query=rows([1, 1]))
        assert torch.allclose(ShiftDC(s=s, alpha=1.0).edit(hidden, 0, seen)[0, 0], rows(1.0, 4.0))
        assert torch.allclose(ShiftDC(s=s, alpha=0.5).edit(hidden, 0, seen)[0, 0], rows(2.0, 4.0))


def test_shiftdc_is_fulfil_with_rank_one_and_alpha_one():
    generator = torch.Generator().manual_seed(0)
    state, query, v = (torch.randn(4, 8, generator=generator) for _ in range(3))
    v = torch.nn.functional.normalize(v[:1], dim=-1)
    shown = torch.ones(4, dtype=torch.bool)
    mine = ShiftDC(s=v * 3, alpha=1.0).edit(one_token(state), 0, Seen(state, shown, query))[:, 0]
    stats = ClassStats.of(query @ v.T, state @ v.T)
    layer = LayerEdit(v, torch.ones(4), shown, stats, stats, reference=query @ v.T)
    assert torch.allclose(mine, Fulfil(alpha=1.0).edit(state, layer), atol=1e-5)


def test_mars_style_is_centred_by_condition_rectified_and_bounded():
    peer = Mars(v=rows([1, 0]), centre_text=rows(1.0), centre_picture=rows(-1.0), radius=rows(3.0), alpha=2.0)
    state = rows([0, 5], [0, 5], [0.5, 5], [9, 5])
    shown = torch.tensor([False, True, True, True])
    edited = peer.edit(one_token(state), 0, Seen(state, shown))[:, 0]
    # text below its centre: untouched; with a picture: 2 * (0 + 1); 2 * (.5 + 1); 20 cut to the radius
    assert torch.allclose(edited, rows([0, 5], [2, 5], [3.5, 5], [12, 5]))
    assert not peer.decode


def test_astra_moves_away_as_far_as_a_token_points_along_v():
    peer = Astra(v=rows([0, 2]), h0=rows([1, 1]), alpha=0.5)
    state = rows([1, 3], [4, 5], [1, -1], [1, 3])
    edited = peer.edit(one_token(state), 0, Seen(state, torch.tensor([True, True, True, False])))[:, 0]
    # cos((0, 2), v) = 1 -> minus .5 * 1 * (0, 2); cos((3, 4), v) = .8; cos((0, -2), v) < 0; no picture
    assert torch.allclose(edited, rows([1, 2], [4, 4.2], [1, -1], [1, 3]))


def test_cast_reads_the_cosine_with_the_projection():
    peer = Cast(c=rows([1, 0]), theta=rows(0.7), above=torch.tensor([True]), v=rows([0, 1]), alpha=3.0)
    state = rows([4, 3], [3, 4], [-4, 3])
    # |h c| / |h|: .8, .6, .8 - a projection has no sign
    assert torch.allclose(peer.cosine(state, 0), rows(0.8, 0.6, -0.8).abs())
    edited = peer.edit(one_token(state), 0, Seen(state, torch.tensor([True] * 3)))[:, 0]
    assert torch.allclose(edited, rows([4, 6], [3, 4], [-4, 6]))
    below = Cast(peer.c, peer.theta, torch.tensor([False]), peer.v, alpha=3.0)
    assert torch.allclose(below.edit(one_token(state), 0, Seen(state, torch.tensor([True] * 3)))[1, 0], rows(3.0, 7.0))


def test_a_null_projector_leaves_benign_states_alone():
    benign = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    projector = null_projector(benign, kept=0.5)
    assert torch.allclose(projector, projector.T, atol=1e-5)
    assert torch.allclose(projector @ projector, projector, atol=1e-5)
    assert torch.linalg.matrix_rank(projector) == 8
    assert (benign @ projector).abs().max() < 1e-4


def nullsteer_problem():
    generator = torch.Generator().manual_seed(2)
    harmful, target = (torch.randn(12, 20, generator=generator).double() for _ in range(2))
    away = torch.randn(12, 2, generator=generator).double()
    projector = null_projector(torch.randn(5, 12, generator=generator).double(), kept=0.5)
    return harmful, target, away, projector


def nullsteer_objective(found, harmful, target, away, projector):
    shown = found @ projector
    return (shown @ harmful - target).pow(2).sum() + 0.3 * (shown @ away).pow(2).sum() + 0.2 * shown.pow(2).sum()


def test_nullsteers_matrix_minimises_its_objective_and_the_printed_form_does_not():
    harmful, target, away, projector = nullsteer_problem()
    found = nullsteer_matrix(harmful, target, away, projector, alpha=0.2, beta=0.3).requires_grad_()
    least = nullsteer_objective(found, harmful, target, away, projector)
    (gradient,) = torch.autograd.grad(least, found)
    assert gradient.abs().max() < 1e-8
    p = projector
    printed = (target + 0.3 * away.mean(1, keepdim=True)) @ harmful.T @ p.T
    printed = printed @ torch.linalg.pinv(p @ harmful @ harmful.T @ p.T + 0.5 * p @ p.T)
    assert nullsteer_objective(printed, harmful, target, away, projector) > least


def test_nullsteer_adds_nothing_to_states_that_the_projector_forgets():
    harmful, target, away, projector = nullsteer_problem()
    matrix = (nullsteer_matrix(harmful, target, away, projector, alpha=0.2, beta=0.3) @ projector).float()[None]
    forgotten = torch.linalg.eigh(projector).eigenvectors[:, :3].T.float()
    seen = Seen(forgotten, torch.ones(3, dtype=torch.bool))
    edited = NullSteer(matrix, alpha=2.0).edit(one_token(forgotten), 0, seen)
    assert torch.allclose(edited[:, 0], forgotten, atol=1e-4)
    moved = NullSteer(matrix, alpha=2.0).edit(one_token(harmful.T.float()), 0, seen)
    assert torch.allclose(moved[:, 0], harmful.T.float() + 2 * harmful.T.float() @ matrix[0].T, atol=1e-4)


@pytest.mark.parametrize("kept", [0.01, 1.0])
def test_a_null_projector_keeps_at_least_one_direction_and_at_most_all(kept):
    projector = null_projector(torch.randn(30, 10, generator=torch.Generator().manual_seed(3)), kept)
    assert torch.linalg.matrix_rank(projector) == (1 if kept < 0.1 else 10)
