"""True label maps: of label images, and painted from masks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import write_label_png
from weaksam_d2.evaluation import truth_name, truth_reader

Register = Callable[..., None]


@pytest.fixture
def register() -> Iterator[Register]:
    names = []

    def make(name: str, records: list[dict[str, Any]], **metadata: Any) -> None:
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], **metadata)
        names.append(name)

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def box(*corners: float) -> list[list[float]]:
    x1, y1, x2, y2 = corners
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def test_label_images_go_through_the_table_of_their_set(register: Register, tmp_path: Path) -> None:
    values = np.array([[0, 8, 12, 15], [255, 8, 0, 1]], np.uint8)
    write_label_png(tmp_path / "x.png", values)
    lut = np.full(256, 254, np.uint8)
    lut[[0, 1, 8, 12, 255]] = [0, 0, 1, 2, 255]
    record = {"image_id": "x", "sem_seg_file_name": str(tmp_path / "x.png")}
    register("truth", [record], label_lut=lut)
    register("weak", [{"image_id": "x", "image_labels": []}], sem_seg_evaluation_name="truth")
    with pytest.raises(ValueError, match=r"x.png' holds \[15\], values that stand for no class"):
        truth_reader("weak")("x")
    lut[15] = 0
    assert truth_name("weak") == truth_name("truth") == "truth"
    truth = truth_reader("weak")
    assert truth.image_ids == ["x"] and truth.space.classes == ("background", "cat", "dog")
    assert truth("x").tolist() == [[0, 1, 2, 0], [255, 1, 0, 0]]
    with pytest.raises(KeyError, match="'y' has no true label map in 'truth'"):
        truth("y")


def test_without_a_table_the_values_are_labels(register: Register, tmp_path: Path) -> None:
    write_label_png(tmp_path / "x.png", np.array([[0, 2, 255]], np.uint8))
    register("plain", [{"image_id": 7, "sem_seg_file_name": str(tmp_path / "x.png")}])
    assert truth_reader("plain")("7").tolist() == [[0, 2, 255]]
    write_label_png(tmp_path / "x.png", np.array([[0, 3, 255]], np.uint8))
    with pytest.raises(ValueError, match=r"x\.png holds the value 3"):
        truth_reader("plain")("7")


def test_masks_are_painted_the_first_on_top_crowds_too(register: Register) -> None:
    objects = [
        {"category_id": 1, "segmentation": box(0, 0, 3, 2), "iscrowd": 1},
        {"category_id": 0, "segmentation": box(1, 0, 5, 2), "iscrowd": 0},
    ]
    empty = {"image_id": "e", "height": 2, "width": 2, "annotations": []}
    record = {"image_id": "x", "height": 3, "width": 6, "annotations": objects}
    register("painted", [record, empty])
    truth = truth_reader("painted")
    row = [2, 2, 2, 1, 1, 0]
    assert truth("x").tolist() == [row, row, [0] * 6]
    assert truth("e").tolist() == [[0, 0], [0, 0]]


def test_records_without_true_labels_are_refused(register: Register) -> None:
    register("weak", [{"image_id": "x", "image_labels": [0]}], evaluation_name="boxes")
    boxes = [{"category_id": 0, "bbox": [0, 0, 1, 1]}]
    register("boxes", [{"image_id": "x", "height": 2, "width": 2, "annotations": boxes}])
    for name in ("weak", "boxes"):
        with pytest.raises(ValueError, match="neither sem_seg_file_name nor annotations with mask"):
            truth_reader(name)
    with pytest.raises(KeyError, match="'nothing' is not registered"):
        truth_reader("nothing")
