"""The image reader: modes, rotation, damaged files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.data import DamagedImageError, image_size, read_image


def test_rgb_and_bgr_are_mirror_orders(tmp_path: Path, save_image: Callable[..., Path]) -> None:
    path = save_image(tmp_path / "a.png")
    image = read_image(path)
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert np.array_equal(read_image(path, format="BGR"), image[..., ::-1])
    with pytest.raises(ValueError, match="'HSV' is unknown"):
        read_image(path, format="HSV")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "RGBA"])
def test_other_color_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (7, 5)).save(path)
    assert read_image(path).shape == (5, 7, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_rotated_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_damaged_files_are_named(
    tmp_path: Path, save_image: Callable[..., Path], suffix: str, keep: float
) -> None:
    path = save_image(tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep != 0.5 else len(data) * keep)])
    with pytest.raises(DamagedImageError, match=path.name):
        read_image(path)


def test_a_missing_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")
