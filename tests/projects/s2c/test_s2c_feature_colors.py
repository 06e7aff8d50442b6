"""Features as colors."""

import numpy as np
import pytest
import torch
from weaksam_d2.projects.s2c.feature_colors import principal_colors


def test_equal_features_have_equal_colors_and_the_main_difference_is_red() -> None:
    features = torch.zeros(5, 4, 6)
    features[0, :, :4], features[1, :, 4:] = 2.0, 7.0  # norms do not matter
    features[2, 0, 0] = 2.0
    found = principal_colors(features, (8, 12))
    assert found.dtype == np.uint8 and found.shape == (8, 12, 3)
    assert (found[2:, :8] == found[4, 4]).all() and (found[:, 8:] == found[4, 10]).all()
    assert abs(int(found[4, 4, 0]) - int(found[4, 10, 0])) > 200


def test_colors_do_not_depend_on_the_basis_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 5, 5, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    turned = torch.einsum("ij,jhw->ihw", rotation, features)
    first, second = principal_colors(features, (5, 5)), principal_colors(turned, (5, 5))
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="features of 2 channels"):
        principal_colors(torch.zeros(2, 4, 4), (4, 4))
