"""The dense CRF: its energies by hand, what goes through unchanged, and its library."""

import builtins
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.cams.crf import CRF_SETTINGS, crf_setting, dense_crf, label_unary, score_unary

RequireAsset = Callable[[Callable[[], Path]], Path]
HARD = [name for name, setting in CRF_SETTINGS.items() if setting.unary == "labels"]
SOFT = [name for name in CRF_SETTINGS if name not in HARD]


@pytest.fixture()
def library(require_asset: RequireAsset) -> None:
    """Skips where pydensecrf is not installed, but fails in CI."""

    def find() -> Path:
        spec = importlib.util.find_spec("pydensecrf")
        if spec is None:
            raise FileNotFoundError("pydensecrf is not installed: pip install 'weaksam_d2[crf]'")
        return Path(next(iter(spec.submodule_search_locations or ())))

    require_asset(find)


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A red square on blue, with noise, and where it is."""
    inside = np.zeros((40, 50), bool)
    inside[10:30, 15:40] = True
    image = np.where(inside[..., None], (220, 30, 30), (30, 30, 200)).astype(np.uint8)
    return image, inside


def test_the_settings_are_those_of_the_table() -> None:
    table = {
        "weaktr_voc": ("labels", 4, 3, 83, 5, 3),
        "weaktr_coco": ("labels", 3, 3, 50, 5, 10),
        "mct": ("scores", 3, 3, 80, 13, 10),
        "s2c": ("scores", 3, 3, 80, 13, 10),
        "clipes": ("scores", 1, 3, 67, 3, 4),
        "weaktr_seg_voc": ("scores", 3, 3, 83, 5, 3),
    }
    assert set(table) == set(CRF_SETTINGS)
    for name, row in table.items():
        s = CRF_SETTINGS[name]
        found = (s.unary, s.gaussian_xy, s.gaussian_weight)
        assert (*found, s.bilateral_xy, s.bilateral_rgb, s.bilateral_weight) == row
        assert (s.label_prob, s.floor, s.iterations) == (0.7, 1e-5, 10)


def test_energies_of_hard_labels() -> None:
    unary = label_unary(np.array([[0, 2, -1]]), 3, 0.7)
    assert unary.shape == (3, 1, 3) and unary.dtype == np.float32
    low, high, even = 0.356675, 1.897120, np.log(3)
    expected = [[low, high, even], [high, high, even], [high, low, even]]
    np.testing.assert_allclose(unary[:, 0], expected, atol=1e-6)


def test_energies_of_scores_are_clipped_and_not_normalized() -> None:
    unary = score_unary(np.array([0.5, 0.0, 1.0]).reshape(3, 1, 1), 1e-5)
    np.testing.assert_allclose(unary.ravel(), [0.693147, 11.512925, 0], atol=1e-6)


@pytest.mark.parametrize("name", HARD)
def test_labels_grow_to_the_edges_and_get_their_ids_back(library: None, name: str) -> None:
    image, inside = picture()
    start = np.zeros(inside.shape, np.uint8)
    start[12:30, 17:40] = 20
    start[11, 15:40] = 255  # of unknown label, and decided by the image
    refined = dense_crf(image, start, name)
    assert refined.ids.tolist() == [0, 20]  # not the 21 labels of the data set
    assert refined.probabilities.shape == (2, 40, 50)
    np.testing.assert_allclose(refined.probabilities.sum(axis=0), 1, atol=1e-4)
    assert set(np.unique(refined.label).tolist()) == {0, 20} and refined.label.dtype == np.uint8
    before = ((start == 20) == inside).mean()
    assert ((refined.label == 20) == inside).mean() > max(before, 0.97)
    assert np.array_equal(refined.label, dense_crf(image, start, name).label)


@pytest.mark.parametrize("name", SOFT)
def test_scores_grow_to_the_edges(library: None, name: str) -> None:
    image, inside = picture()
    scores = np.zeros((3, *inside.shape), np.float32)
    scores[0], scores[2] = 0.4, 0.2
    scores[2][12:28, 17:38] = 0.9
    refined = dense_crf(image, scores, name, ids=[0, 4, 9])
    assert refined.ids.tolist() == [0, 4, 9] and refined.probabilities.shape == (3, 40, 50)
    assert set(np.unique(refined.label).tolist()) <= {0, 9}  # a class without score gains nothing
    before = ((scores[2] > 0.4) == inside).mean()
    assert ((refined.label == 9) == inside).mean() > max(before, 0.97)
    assert not dense_crf(image, scores[:1], name, ids=[0]).label.any()


def test_with_less_than_two_labels_the_start_is_given_back(library: None) -> None:
    image, inside = picture()
    start = np.where(inside, 0, 255).astype(np.uint8)
    refined = dense_crf(image, start, "weaktr_voc")
    assert np.array_equal(refined.label, start) and refined.label.dtype == np.uint8
    assert refined.ids.tolist() == [0] and (refined.probabilities == 1).all()
    nothing = dense_crf(image, np.full_like(start, 255), "weaktr_voc")
    assert (nothing.label == 255).all() and nothing.probabilities.shape == (0, 40, 50)


def test_images_that_are_read_only_or_not_contiguous_are_taken(library: None) -> None:
    image, inside = picture()
    start = inside.astype(np.uint8)
    expected = dense_crf(image, start, "weaktr_voc").probabilities
    turned = np.asfortranarray(image)
    assert not turned.flags["C_CONTIGUOUS"]
    assert np.array_equal(dense_crf(turned, start, "weaktr_voc").probabilities, expected)
    for array in (image, start):  # as Pillow gives them
        array.flags.writeable = False
    assert np.array_equal(dense_crf(image, start, "weaktr_voc").probabilities, expected)


def test_what_does_not_fit_is_refused(library: None) -> None:
    image, inside = picture()
    label, scores = inside.astype(np.uint8), np.zeros((2, 40, 50), np.float32)
    wrong: list[tuple[Any, Any, str, Any, str]] = [
        (image, label, "s2c", None, "'s2c' takes scores"),
        (image, scores, "weaktr_voc", [0, 1], r"'weaktr_voc' takes a label map"),
        (image, scores, "s2c", None, "takes scores .* and ids"),
        (image, scores, "s2c", [0, 1, 2], "2 rows of scores and 3 ids"),
        (image[:-1], label, "weaktr_voc", None, r"image is uint8 \(39, 50, 3\)"),
        (image.astype(float), label, "weaktr_voc", None, "image is float64"),
    ]
    for picture_, start, name, ids, message in wrong:
        with pytest.raises(ValueError, match=message):
            dense_crf(picture_, start, name, ids=ids)


def test_an_unknown_setting_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="WEAKSAM.LABELS.CRF is 'sharp', .*'weaktr_voc'"):
        crf_setting("sharp")


def test_without_the_library_only_asking_for_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pydensecrf"):
            raise ImportError("No module named 'pydensecrf'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"python -m pip install 'weaksam_d2\[crf\]'"):
        crf_setting("weaktr_voc")
