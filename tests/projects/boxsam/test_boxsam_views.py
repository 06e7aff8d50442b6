"""The six views of an image."""

import numpy as np
import pytest
from weaksam_d2.projects.boxsam.views import NUM_VIEWS, tag_views


def colored(height: int, width: int) -> np.ndarray:
    """Red grows to the right, green downward."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (7, 300), (5, 5)])
def test_there_are_six_square_views_of_any_image(height: int, width: int) -> None:
    views = tag_views(colored(height, width), 32)
    assert views.shape == (NUM_VIEWS, 3, 32, 32)
    assert float(views.min()) >= 0 and float(views.max()) <= 255


def test_views_show_the_middle_the_whole_and_the_corners() -> None:
    views = tag_views(colored(90, 180), 30)
    left, right = views[:, 0, :, 0].mean(dim=1), views[:, 0, :, -1].mean(dim=1)
    top, bottom = views[:, 1, 0].mean(dim=1), views[:, 1, -1].mean(dim=1)
    wide = np.array([[64, 191], [0, 255], [0, 170], [85, 255], [0, 170], [85, 255]])
    high = np.array([[0, 255], [0, 255], [0, 170], [0, 170], [85, 255], [85, 255]])
    np.testing.assert_allclose(np.stack([left, right], 1), wide, atol=6)
    np.testing.assert_allclose(np.stack([top, bottom], 1), high, atol=6)


def test_another_kind_of_image_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        tag_views(np.zeros((4, 4), np.uint8), 8)
