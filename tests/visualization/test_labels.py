"""Label maps on their image: where the paint goes, and what is refused."""

import numpy as np
import pytest

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.visualization import class_color, draw_labels

IMAGE = np.full((60, 80, 3), 200, np.uint8)
SPACE = LabelSpace("two", ["cat", "dog"])


def test_each_class_is_tinted_and_background_is_not() -> None:
    label = np.zeros((60, 80), np.uint8)
    label[30:50, 10:30], label[30:50, 50:70] = 1, 2
    picture = draw_labels(IMAGE, label, SPACE, side=80)
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
    for column, index in ((20, 0), (60, 1)):
        mixed = 0.4 * 200 + 0.6 * 255 * np.array(class_color(index))
        np.testing.assert_allclose(picture[40, column], mixed, atol=2)
        border = 255 * np.array(class_color(index))
        np.testing.assert_allclose(picture[30, column], border, atol=40)
    assert (picture[55, :] == 200).all()


def test_unknown_pixels_become_white_and_are_named() -> None:
    label = np.zeros((60, 80), np.uint8)
    plain = draw_labels(IMAGE, label, SPACE, side=320)
    assert (plain == 200).all()  # nothing to name, nothing to paint
    label[30:] = 255
    picture = draw_labels(IMAGE, label, SPACE, side=320)
    assert (picture[180:] > 220).all()
    assert (picture[:80, :160] != 200).any()  # the legend


def test_what_is_no_label_of_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"holds \[3\], which are no labels of 'two'"):
        draw_labels(IMAGE, np.full((60, 80), 3, np.uint8), SPACE)
    with pytest.raises(ValueError, match=r"the label is \(3, 3\), its image \(60, 80\)"):
        draw_labels(IMAGE, np.zeros((3, 3), np.uint8), SPACE)
