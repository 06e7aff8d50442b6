"""Upsampling as matrices, and what is read from upsampled features without making them."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from weaksam_d2.projects.s2c.bilinear import BilinearAxis, scatter_mass, upsampled_norm

SIZES = [
    ((5, 7), (20, 28)),
    ((3, 4), (10, 9)),
    ((6, 5), (6, 5)),
    ((1, 3), (8, 1)),
    ((9, 8), (4, 5)),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def axes(cells: tuple[int, int], pixels: tuple[int, int]) -> tuple[BilinearAxis, BilinearAxis]:
    rows, columns = (
        BilinearAxis.between(few, many, torch.device("cpu"))
        for few, many in zip(cells, pixels, strict=True)
    )
    return rows, columns


def upsampled(features: Tensor, pixels: tuple[int, int]) -> Tensor:
    return F.interpolate(features[None], size=pixels, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(("cells", "pixels"), SIZES)
def test_the_matrices_are_the_upsampling(cells: tuple[int, int], pixels: tuple[int, int]) -> None:
    features = random(3, *cells)
    rows, columns = axes(cells, pixels)
    found = rows.matrix() @ features @ columns.matrix().T
    torch.testing.assert_close(found, upsampled(features, pixels))


@pytest.mark.parametrize(("cells", "pixels"), SIZES)
def test_the_norm_and_its_gradient_are_those_of_the_upsampled_features(
    cells: tuple[int, int], pixels: tuple[int, int]
) -> None:
    given = [random(4, *cells).requires_grad_() for _ in range(2)]
    weight = random(*pixels, seed=1)
    ours = upsampled_norm(given[0], *axes(cells, pixels))
    theirs = upsampled(given[1], pixels).norm(dim=0)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(given[0].grad, given[1].grad)


def test_where_there_is_no_feature_the_norm_is_zero_without_gradient() -> None:
    features = torch.zeros(2, 3, 3, dtype=torch.float64)
    features[:, 2, 2] = 1.0
    features.requires_grad_()
    norm = upsampled_norm(features, *axes((3, 3), (12, 12)))
    assert bool((norm[:6] == 0).all()) and float(norm.detach()[-1, -1]) == pytest.approx(2**0.5)
    norm[:6].sum().backward()
    assert features.grad is not None and not features.grad.any()


@pytest.mark.parametrize(("cells", "pixels"), SIZES)
def test_scattered_mass_gives_the_sums_of_upsampled_features(
    cells: tuple[int, int], pixels: tuple[int, int]
) -> None:
    features, mass = random(4, *cells), random(*pixels, seed=1).abs()
    ids = torch.randint(0, 3, pixels, generator=torch.Generator().manual_seed(2))
    found = scatter_mass(mass, ids, 4, *axes(cells, pixels)) @ features.flatten(1).T
    up = upsampled(features, pixels) * mass
    expected = torch.stack([up[:, ids == name].sum(dim=1) for name in range(4)])
    torch.testing.assert_close(found, expected)
