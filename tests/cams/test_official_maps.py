"""Official map files as a store: classes, sizes, values, and what does not fit the data set."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from weaksam_d2.artifacts import CamStore, CamStoreWriter, ForeignFileError, LabelSpace
from weaksam_d2.cams import OfficialCams, find_official_files, import_official_cams, read_cam
from weaksam_d2.ops import divide_by_maximum, normalize_map

NAMES = ["duck", "swan", "goose"]
SPACE = LabelSpace("birds", NAMES)
GAPS = LabelSpace("birds", NAMES, dataset_ids=[1, 2, 4])  # no category 3
SIZE = (32, 48)
CLASS_MAPS, CLIP_ES = OfficialCams("class_maps"), OfficialCams("clip_es")


def smooth(seed: int, rows: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Maps (rows, h, w) with minimum 0 and maximum 1."""
    coarse = torch.rand((1, rows, 3, 4), generator=torch.Generator().manual_seed(seed))
    return normalize_map(F.interpolate(coarse, size, mode="bilinear")[0]).numpy()


def record(image_id: str, tags: list[int]) -> dict[str, Any]:
    height, width = SIZE
    return {"image_id": image_id, "height": height, "width": width, "image_labels": tags,
            "file_name": f"{image_id}.jpg"}  # fmt: skip


def run(
    tmp_path: Path,
    settings: OfficialCams,
    content: dict[str, Any],
    tags: dict[str, list[int]],
    space: LabelSpace = SPACE,
) -> tuple[CamStore, dict[str, int]]:
    """Save files, import them, and open the store."""
    (tmp_path / "maps").mkdir()
    for image_id, value in content.items():
        np.save(tmp_path / "maps" / f"{image_id}.npy", value)
    records = [record(image_id, found) for image_id, found in tags.items()]
    paths = find_official_files(tmp_path / "maps", records, settings).paths
    with CamStoreWriter(
        tmp_path / "store",
        class_names=NAMES,
        network=settings.layout,
        scales=(1.0,),
        normalize=settings.normalize,
    ) as writer:
        done = import_official_cams(records, paths, settings, space=space, writer=writer)
    return CamStore.open(tmp_path / "store"), done.counts()


def test_what_is_read_is_what_the_file_holds(tmp_path: Path) -> None:
    maps = smooth(0, 2)
    store, counts = run(
        tmp_path, CLASS_MAPS, {"a": {2: maps[0], 0: maps[1]}, "b": {}}, {"a": [0, 2], "b": []}
    )
    cam, classes = read_cam(store, "a")
    assert classes.tolist() == [0, 2] and cam.shape == (2, *SIZE)
    np.testing.assert_array_equal(cam, maps[::-1].astype(np.float16).astype(np.float32))
    assert read_cam(store, "b").cam.shape == (0, *SIZE)
    assert store["a"].gate == "gt" and store["a"].fine is None
    assert store.index["network"] == "class_maps" and store.index["normalize"] == "none"
    assert counts == {
        "images": 2, "maps": 2, "missing_images": 0, "reduced_images": 0, "untold_images": 0
    }  # fmt: skip


def test_keyed_maps_of_two_kinds_are_coarse_and_fine(tmp_path: Path) -> None:
    maps, refined = smooth(0, 2).astype(np.float16), smooth(1, 2).astype(np.float16)
    content = {"keys": np.array([1, 0]), "highres": maps, "attn_highres": refined}
    store, _ = run(tmp_path, CLIP_ES, {"a": content}, {"a": [0, 1]})
    np.testing.assert_array_equal(read_cam(store, "a").cam, refined[::-1].astype(np.float32))
    coarse = read_cam(store, "a", kind="coarse").cam
    np.testing.assert_array_equal(coarse, maps[::-1].astype(np.float32))


@pytest.mark.parametrize("normalize", ["minmax", "max"])
def test_a_reader_normalizes_where_that_is_asked_for(tmp_path: Path, normalize: str) -> None:
    maps = smooth(3, 1) * 9 - 2  # values of a network, some of them negative
    settings = replace(CLASS_MAPS, normalize=normalize)
    store, _ = run(tmp_path, settings, {"a": {1: maps[0]}}, {"a": [1]})
    expected = (normalize_map if normalize == "minmax" else divide_by_maximum)(
        torch.from_numpy(maps.astype(np.float16).astype(np.float32))
    )
    np.testing.assert_array_equal(read_cam(store, "a").cam, expected.numpy())


def test_values_that_are_not_normalized_are_refused_where_they_are_to_stay(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match=r"a\.npy has values from -2 to 7.*--normalize"):
        run(tmp_path, CLASS_MAPS, {"a": {1: smooth(3, 1)[0] * 9 - 2}}, {"a": [1]})


def test_rounding_beyond_one_is_cut(tmp_path: Path) -> None:
    maps = smooth(0, 1)[0] * 1.0005
    store, _ = run(tmp_path, CLASS_MAPS, {"a": {1: maps}}, {"a": [1]})
    assert read_cam(store, "a").cam.max() == 1


@pytest.mark.parametrize("size", [(32, 48), (31, 48), (16, 24), (2, 3), (5, 7), (4, 6), (1, 1)])
def test_reduced_maps_of_the_images_shape_are_taken(tmp_path: Path, size: Any) -> None:
    maps = smooth(0, 1, size)
    store, counts = run(tmp_path, CLASS_MAPS, {"a": {1: maps[0]}}, {"a": [1]})
    assert store["a"].coarse[0].shape == (1, *size)
    assert read_cam(store, "a").cam.shape == (1, *SIZE)
    assert counts["reduced_images"] == (size != SIZE)


@pytest.mark.parametrize(
    "size", [(48, 32), (32, 32), (30, 48), (33, 48), (64, 96), (16, 20), (2, 6)]
)
def test_maps_of_another_shape_are_refused_with_both_sizes(tmp_path: Path, size: Any) -> None:
    words = rf"a\.npy has maps of {size[0]} x {size[1]} .*image 'a' is 32 x 48"
    with pytest.raises(ForeignFileError, match=words):
        run(tmp_path, CLASS_MAPS, {"a": {1: smooth(0, 1, size)[0]}}, {"a": [1]})
    assert not (tmp_path / "store").exists()


def test_a_stride_reduces_maps_of_image_size_only(tmp_path: Path) -> None:
    maps, small = smooth(0, 1), smooth(1, 1, (16, 24))
    settings = replace(CLASS_MAPS, stride=5)
    store, counts = run(
        tmp_path, settings, {"a": {1: maps[0]}, "b": {1: small[0]}}, {"a": [1], "b": [1]}
    )
    assert store["a"].coarse[0].shape == (1, 7, 10) and counts["reduced_images"] == 1
    assert store["b"].coarse[0].shape == (1, 16, 24)
    expected = Image.fromarray(maps[0]).resize((10, 7), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(store["a"].coarse[0][0], np.asarray(expected), atol=1e-3)


def test_an_untagged_class_is_refused_or_a_prediction(tmp_path: Path) -> None:
    content = {"a": {0: smooth(0, 1)[0]}}
    (tmp_path / "gt").mkdir()
    with pytest.raises(
        ForeignFileError,
        match=r"a\.npy has a map of class 0 \(duck\), image 'a' has the tags 1 \(swan\).*--gate pr",
    ):
        run(tmp_path / "gt", CLASS_MAPS, content, {"a": [1]})
    store, _ = run(tmp_path, replace(CLASS_MAPS, gate="pred"), content, {"a": [1]})
    assert store["a"].classes.tolist() == [0] and store["a"].gate == "pred"


def test_a_tag_without_map_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"a": {0: smooth(0, 1)[0]}, "b": {}}
    with caplog.at_level(logging.WARNING):
        store, counts = run(tmp_path, CLASS_MAPS, content, {"a": [0, 2], "b": [1]})
    assert counts["untold_images"] == 2 and "2 images have tags without a map" in caplog.text
    assert store["a"].classes.tolist() == [0] and store["b"].classes.tolist() == []


def test_numbers_of_categories_are_converted_if_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maps = smooth(0, 3)
    content = {"a": {3: maps[0], 2: maps[1], 0: maps[2]}}  # categories 4, 3 (a gap) and 1
    settings = replace(CLASS_MAPS, channels="category_channels")
    with caplog.at_level(logging.WARNING):
        store, _ = run(tmp_path, settings, content, {"a": [0, 2]}, GAPS)
    assert "channel 2 of 'category_channels' is dropped" in caplog.text
    cam, classes = read_cam(store, "a")
    assert classes.tolist() == [0, 2]
    np.testing.assert_array_equal(cam, maps[[2, 0]].astype(np.float16).astype(np.float32))


def test_a_number_of_no_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match=r"a\.npy: channel 3 .*\[0, 3\).*--channels"):
        run(tmp_path, CLASS_MAPS, {"a": {3: smooth(0, 1)[0]}}, {"a": [1]})


def test_missing_and_superfluous_files_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"a": {1: smooth(0, 1)[0]}, "x": {}}
    tags = {"a": [1], "b": [0]}
    (tmp_path / "error").mkdir()
    words = r"no file for 1 images, for example \['b'\]; its files of no image are \['x\.npy'\]"
    with pytest.raises(ForeignFileError, match=words):
        run(tmp_path / "error", CLASS_MAPS, content, tags)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        store, counts = run(tmp_path, replace(CLASS_MAPS, missing="empty"), content, tags)
    assert "1 files that belong to no image" in caplog.text and "they have no maps" in caplog.text
    assert counts["missing_images"] == 1 and counts["untold_images"] == 0
    assert store.image_ids == ["a", "b"] and len(store["b"].classes) == 0


def test_wrong_settings_are_refused() -> None:
    for change in ({"missing": "skip"}, {"stride": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(CLASS_MAPS, **change)
