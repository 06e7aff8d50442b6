"""Tests of weaksam_d2.ops.affinity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import (
    activation_box_mask,
    grad_cam,
    normalize_map,
    propagate,
    sinkhorn,
    symmetrize,
)

EXAMPLE = torch.tensor([[4.0, 1], [2, 3]], dtype=torch.float64)


def test_channel_weights_are_mean_gradients() -> None:
    features = torch.tensor([[1.0, 0], [0, 2]])  # patch x channel
    gradients = torch.tensor([[[0.4, -0.1], [0.2, 0.3]]])
    cam = grad_cam(features, gradients)
    torch.testing.assert_close(cam, torch.tensor([[0.3, 0.2]]))
    scaled = normalize_map(cam.reshape(1, 1, 2), eps=1e-7)
    torch.testing.assert_close(scaled, torch.tensor([[[1.0, 0]]]), atol=2e-6, rtol=0)


def test_the_map_keeps_its_positive_part_only() -> None:
    features = torch.tensor([[1.0, 2], [3, -1]])
    gradients = torch.tensor([[[1.0, 0], [1, 0]], [[0, 1.0], [0, 1]]])
    assert grad_cam(features, gradients).tolist() == [[1, 3], [2, 0]]
    assert grad_cam(features, gradients[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match=r"\(K, 2, 2\).*got \(2, 2\)"):
        grad_cam(features, gradients[0])


def test_the_gradient_of_a_softmax_by_hand() -> None:
    z = torch.tensor([2.0, 1, 0], requires_grad=True)
    p = z.softmax(dim=0)
    (gradient,) = torch.autograd.grad(p[0], z)
    torch.testing.assert_close(p.detach(), torch.tensor([0.665241, 0.244728, 0.090031]))
    torch.testing.assert_close(gradient, torch.tensor([0.222695, -0.162803, -0.059892]))


def test_sinkhorn_by_hand() -> None:
    expected = torch.tensor([[0.710647, 0.289353], [0.290443, 0.709557]], dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(EXAMPLE, 3), expected, atol=5e-7, rtol=0)
    assert torch.equal(sinkhorn(EXAMPLE, 0), EXAMPLE)


def test_columns_are_divided_before_rows() -> None:
    columns = EXAMPLE / torch.tensor([6.0, 4], dtype=torch.float64)
    expected = columns / columns.sum(dim=1)[:, None]
    torch.testing.assert_close(sinkhorn(EXAMPLE, 1), expected)


def test_affinity_spreads_maps_as_by_hand() -> None:
    transition = symmetrize(sinkhorn(EXAMPLE, 3))
    assert transition[0, 1].item() == pytest.approx(0.289898, abs=5e-7)
    assert transition[1, 0] == transition[0, 1]
    cams = torch.tensor([[1.0, 0.5], [1.0, 0]], dtype=torch.float64)
    expected = torch.tensor([[0.794917, 0.705470], [0.589060, 0.411715]], dtype=torch.float64)
    torch.testing.assert_close(propagate(transition, cams), expected, atol=1e-6, rtol=0)
    squared = torch.tensor([[0.589060, 0.411715], [0.411715, 0.587512]], dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(propagate(transition, identity), squared, atol=1e-6, rtol=0)


def test_two_thin_products_equal_the_power_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(30, 30, generator=generator, dtype=torch.float64).softmax(dim=1)
    values = torch.rand(4, 30, generator=generator, dtype=torch.float64)
    transition = symmetrize(sinkhorn(attention))
    power = transition @ transition
    slow = torch.stack([power @ row for row in values])
    torch.testing.assert_close(propagate(transition, values), slow)
    assert propagate(transition, values[:0]).shape == (0, 30)
    assert torch.equal(propagate(transition, values, steps=0), values)


def test_patches_that_nobody_attends_to_stay_zero() -> None:
    balanced = sinkhorn(torch.tensor([[0.0, 0], [0, 2]]))
    assert balanced.tolist() == [[0, 0], [0, 1]]


def test_affinities_that_are_not_square_are_refused() -> None:
    for function in (sinkhorn, symmetrize):
        with pytest.raises(ValueError, match=r"square matrix, got \(2, 3\)"):
            function(torch.ones(2, 3))
    with pytest.raises(ValueError, match="SINKHORN iterations.*-1"):
        sinkhorn(EXAMPLE, -1)


def example_map() -> np.ndarray:
    cam = np.zeros((4, 5), np.float32)
    cam[0, 0] = cam[0, 1] = cam[1, 1] = 1
    cam[3, 4] = 0.9
    return cam


def test_boxes_by_hand() -> None:
    mask = activation_box_mask(example_map(), threshold=0.4)
    expected = np.zeros((4, 5), np.bool_)
    expected[:2, :2] = expected[3, 4] = True
    assert np.array_equal(mask, expected) and mask.sum() == 5
    expected[3, 4] = False  # a component of one pixel in the corner vanishes
    reference = activation_box_mask(example_map(), threshold=0.4, rule="reference")
    assert np.array_equal(reference, expected) and reference.sum() == 4


def test_the_threshold_is_counted_in_levels_and_strict() -> None:
    cam = np.array([[1.0, 102.9 / 255, 103 / 255 + 1e-4]], np.float32)
    assert activation_box_mask(cam, threshold=0.4).tolist() == [[True, False, True]]
    half = cam / 2  # maximum level 127: 0.4 of it is 50
    assert activation_box_mask(half, threshold=0.4).tolist() == [[True, True, True]]
    assert activation_box_mask(cam, threshold=0.7).tolist() == [[True, False, False]]


def test_diagonal_neighbors_are_one_component() -> None:
    assert activation_box_mask(np.eye(3, dtype=np.float32), threshold=0.4).all()
    apart = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    assert activation_box_mask(apart, threshold=0.4).sum() == 2


def test_a_map_of_zeros_has_no_box_and_a_full_one_is_a_box() -> None:
    assert not activation_box_mask(np.zeros((3, 4), np.float32), threshold=0.4).any()
    assert activation_box_mask(np.ones((3, 4), np.float32), threshold=0.4).all()
    reference = activation_box_mask(np.ones((3, 4), np.float32), threshold=0.4, rule="reference")
    assert reference.tolist() == [[True] * 3 + [False]] * 2 + [[False] * 4]


def test_unknown_box_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="BOX is 'closed', allowed: half_open, reference"):
        activation_box_mask(example_map(), threshold=0.4, rule="closed")
    with pytest.raises(ValueError, match=r"BOX_THRESH must be in \[0, 1\), got 1"):
        activation_box_mask(example_map(), threshold=1)


def slow_box_mask(cam: np.ndarray, threshold: float) -> np.ndarray:
    """Grow each component pixel by pixel, then fill its box."""
    levels = np.array([[int(np.float32(v) * np.float32(255)) for v in row] for row in cam])
    bright = {
        (y, x) for y, x in np.ndindex(*cam.shape) if levels[y, x] > int(threshold * levels.max())
    }
    mask = np.zeros(cam.shape, np.bool_)
    while bright:
        component, front = set(), [bright.pop()]
        while front:
            y, x = front.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & bright
            bright -= near
            front += near
        ys, xs = zip(*component, strict=True)
        mask[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.4, 0.7]))
def test_boxes_equal_a_slow_search(seed: int, height: int, width: int, threshold: float) -> None:
    cam = np.random.default_rng(seed).random((height, width)).astype(np.float32) ** 3
    expected = slow_box_mask(cam, threshold)
    assert np.array_equal(activation_box_mask(cam, threshold=threshold), expected)
