"""Which cells lie in the image, and where."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.dino.pyramid import make_pyramid

CPU = torch.device("cpu")


def test_cells_of_a_padded_image_by_hand() -> None:
    pyramid = make_pyramid([(2, 4), (1, 2)], [(16, 16), (12, 32)], (16, 32), CPU)
    assert pyramid.starts.tolist() == [0, 8]
    assert pyramid.filled.tolist() == [[[2, 2], [1, 1]], [[4, 2], [2, 1]]]  # columns, rows
    assert pyramid.ratios.tolist() == [[[0.5, 1], [0.5, 1]], [[1, 1], [1, 1]]]
    assert pyramid.valid[0].tolist() == [True, True, False, False] * 2 + [True, False]
    assert pyramid.valid[1].all()
    assert pyramid.centers[0, 5].tolist() == [0.75, 0.75]  # second row, second column
    assert pyramid.centers[1, 5].tolist() == [0.375, 0.75]
    assert pyramid.centers[0, 8].tolist() == [0.5, 0.5]


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    stride=st.sampled_from([3, 8, 16, 64]),
)
def test_the_mask_is_the_nearest_pixel_of_the_true_size(
    size: tuple[int, int], more: tuple[int, int], stride: int
) -> None:
    padded = (size[0] + more[0], size[1] + more[1])
    shape = (-(-padded[0] // stride), -(-padded[1] // stride))
    valid = make_pyramid([shape], [size], padded, CPU).valid.view(shape)
    for j in range(shape[0]):
        for i in range(shape[1]):
            pixel = j * padded[0] // shape[0], i * padded[1] // shape[1]
            assert valid[j, i] == (pixel[0] < size[0] and pixel[1] < size[1])
    assert valid[0, 0]
