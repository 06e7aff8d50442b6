"""Label ids of data sets, and the ways in which other programs number classes."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from weaksam_d2.artifacts import ArtifactError, CategoryMap, LabelSpace

GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = [i for i in range(1, 91) if i not in GAPS]


@pytest.fixture()
def coco() -> LabelSpace:
    names = [f"thing {i}" for i in COCO_IDS]
    return LabelSpace.from_categories("coco", CategoryMap(names, COCO_IDS))


def test_a_label_is_the_class_plus_one_and_background_is_0() -> None:
    space = LabelSpace("birds", ["duck", "swan"])
    assert space.classes == ("background", "duck", "swan") and space.num_labels == 3
    assert [space.to_label(c) for c in (0, 1)] == [1, 2]
    assert [space.to_class(label) for label in (1, 2)] == [0, 1]
    for label in (0, 3, 255, -1):
        with pytest.raises(ValueError, match=f"label {label} is no class"):
            space.to_class(label)
    for class_id in (-1, 2):
        with pytest.raises(ValueError, match=f"class {class_id} is not in"):
            space.to_label(class_id)


def test_coco_labels_are_ranks_of_the_category_ids(coco: LabelSpace) -> None:
    assert coco.num_labels == 81
    given = {1: 1, 11: 11, 13: 12, 90: 80}
    assert {i: coco.from_coco_category(i) for i in given} == given
    assert [coco.from_coco_category(i) for i in COCO_IDS] == list(range(1, 81))
    for gap in (*GAPS, 0, 91):
        with pytest.raises(ValueError, match=f"category id {gap} is not one"):
            coco.from_coco_category(gap)


def test_ninety_channels_are_not_eighty_classes(
    coco: LabelSpace, caplog: pytest.LogCaptureFixture
) -> None:
    """Toothbrush is channel 89 of 90, or 79 of 80; street sign is channel 11 of 90 only."""
    one_hot = np.zeros(90, np.float32)
    one_hot[89] = 1
    with caplog.at_level(logging.WARNING):
        tags = np.flatnonzero(coco.convert_channels(one_hot, "category_channels"))
    assert [coco.to_label(int(tag)) for tag in tags] == [80] and not caplog.records
    assert coco.from_channel(89, "category_channels") == 80
    assert coco.from_channel(79, "contiguous") == 80
    assert coco.from_channel(79, "category_channels") == coco.from_coco_category(80) == 71
    one_hot[:] = 0
    one_hot[11] = 1
    with caplog.at_level(logging.WARNING):
        converted = coco.convert_channels(one_hot, "category_channels")
    assert converted.shape == (80,) and not converted.any()
    assert "channel 11 of 'category_channels' is dropped" in caplog.text
    assert coco.from_channel(11, "category_channels") is None
    with pytest.raises(ValueError, match=r"shape \(80,\) is not 'category_channels', expected 90"):
        coco.convert_channels(np.zeros(80), "category_channels")
    with pytest.raises(ValueError, match=r"shape \(90,\) is not 'contiguous', expected 80"):
        coco.convert_channels(one_hot, "contiguous")
    with pytest.raises(ValueError, match="channel 90 of"):
        coco.from_channel(90, "category_channels")
    with pytest.raises(ValueError, match="encoding is 'guess', expected one of"):
        coco.from_channel(0, "guess")


def test_maps_keep_their_rows(coco: LabelSpace) -> None:
    maps = np.arange(90 * 6, dtype=np.float32).reshape(90, 2, 3)
    converted = coco.convert_channels(maps, "category_channels")
    assert np.array_equal(converted, maps[[i - 1 for i in COCO_IDS]])
    assert np.array_equal(coco.convert_channels(maps[:80], "contiguous"), maps[:80])


def test_masks_of_raw_category_ids_become_labels_and_a_gap_is_an_error(coco: LabelSpace) -> None:
    mask = np.array([[0, 1, 13], [90, 255, 0]], np.int32)
    labels = coco.convert_mask(mask, "category_ids")
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 1, 12], [80, 255, 0]]
    with pytest.raises(ValueError, match="a.png holds the value 12, which is no 'category_ids'"):
        coco.convert_mask(np.array([[12]]), "category_ids", "a.png")
    assert coco.convert_mask(np.array([[80, 255]], np.uint8), "labels").tolist() == [[80, 255]]
    with pytest.raises(ValueError, match="holds the value 90"):
        coco.convert_mask(mask, "labels")
    with pytest.raises(ValueError, match="encoding is '0-based'"):
        coco.convert_mask(mask, "0-based")


def test_a_space_comes_from_metadata_and_from_its_description() -> None:
    ids = {10: 0, 20: 1}
    metadata = SimpleNamespace(
        thing_classes=["duck", "swan"], thing_dataset_id_to_contiguous_id=ids
    )
    space = LabelSpace.from_metadata("birds", metadata)
    assert space.from_coco_category(20) == 2
    again = LabelSpace.from_description("labels.json", space.describe())
    assert again == space and hash(again) == hash(space) and again.name == "birds"
    assert LabelSpace("other name", ["duck", "swan"]) == space
    assert space != LabelSpace("birds", ["swan", "duck"]) and space != "birds"
    for wrong in ({}, {"name": "a", "classes": ["duck"], "ignore": 255}, [], None):
        with pytest.raises(ArtifactError, match="labels.json has no valid label_space"):
            LabelSpace.from_description("labels.json", wrong)


def test_another_space_is_refused_with_the_first_difference() -> None:
    space = LabelSpace("birds", ["duck", "swan"])
    space.check_same(LabelSpace("x", ["duck", "swan"]), "there")
    with pytest.raises(ArtifactError, match="there has another .*label 2 is 'goose' and not 'swan"):
        space.check_same(LabelSpace("x", ["duck", "goose"]), "there")
    with pytest.raises(ArtifactError, match="2 labels and ignore 255"):
        space.check_same(LabelSpace("x", ["duck"]), "there")


@pytest.mark.parametrize(("count", "ignore"), [(255, 255), (3, 3), (3, 256), (3, -1)])
def test_labels_and_ignore_must_fit_8_bits(count: int, ignore: int) -> None:
    with pytest.raises(ValueError, match="do not fit 8 bits"):
        LabelSpace("many", [str(i) for i in range(count)], ignore=ignore)
    assert LabelSpace("many", [str(i) for i in range(254)]).num_labels == 255
