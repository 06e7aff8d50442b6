"""Folders of label images as training sets."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import LabelSpace, SemSegLabelsWriter, write_label_png
from weaksam_d2.data import (
    build_test_loader,
    build_train_loader,
    register_pseudo_labels_of,
    register_tagged_folder,
)

CLASSES = ["cat", "dog"]
SIZE = (60, 80)


@pytest.fixture
def pets(tmp_path: Path, save_image: Callable[..., Path]) -> str:
    """Images a, b and c with tags."""
    for seed, name in enumerate("abc"):
        save_image(tmp_path / "photos" / f"{name}.jpg", seed=seed)
    (tmp_path / "tags.csv").write_text("a.jpg,cat\nb.jpg,dog\nc.jpg,cat;dog\n")
    register_tagged_folder(
        "pets", image_root=tmp_path / "photos", tags=tmp_path / "tags.csv", classes=CLASSES
    )
    return "pets"


def label_of(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    label = np.zeros(size, dtype=np.uint8)
    label[10:40, 10:50] = value
    return label


def write(path: Path, labels: dict[str, np.ndarray], classes: list[str] = CLASSES) -> Path:
    made = {"system": "CAM", "base": "paper", "supervision": "image_labels"}
    with SemSegLabelsWriter(path, space=LabelSpace("pets", classes), **made) as writer:
        for image_id, label in labels.items():
            writer.add(image_id, label)
    return path


def three() -> dict[str, np.ndarray]:
    return {"a": label_of(1), "b": label_of(2), "c": label_of(2)}


@pytest.fixture
def cfg(weak_cfg: Any, pets: str) -> Any:
    weak_cfg.INPUT.MAPPER_NAME, weak_cfg.MODEL.LOAD_PROPOSALS = "SemSegMapper", False
    weak_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    weak_cfg.DATASETS.TRAIN = (pets,)
    return weak_cfg


def test_a_folder_of_ours_gives_records_and_metadata(pets: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "labels", {**three(), "z": label_of(1)})  # one image more than pets
    name = register_pseudo_labels_of(pets, folder)
    assert name == register_pseudo_labels_of(pets, folder)  # twice is no change
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    assert [record["image_id"] for record in records] == ["a", "b", "c"]
    assert set(records[0]) == {"file_name", "image_id", "height", "width", "sem_seg_file_name"}
    assert records[0]["sem_seg_file_name"] == str(folder / "labels" / "a.png")
    assert metadata.stuff_classes == ["background", *CLASSES]
    assert (metadata.ignore_label, metadata.thing_classes) == (255, CLASSES)


def test_images_without_any_label_are_left_out_and_counted(
    pets: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "labels", {**three(), "b": np.full(SIZE, 255, dtype=np.uint8)})
    name = register_pseudo_labels_of(pets, folder)
    with caplog.at_level(logging.INFO, logger="weaksam_d2.data.pseudo_labels"):
        assert [record["image_id"] for record in DatasetCatalog.get(name)] == ["a", "c"]
    assert "1 of the 3 images" in caplog.text


def test_a_folder_of_another_program(pets: str, tmp_path: Path) -> None:
    for image_id, label in three().items():
        write_label_png(tmp_path / "foreign" / f"{image_id}.png", label)
    write_label_png(tmp_path / "foreign" / "c.png", np.full(SIZE, 255, dtype=np.uint8))
    name = register_pseudo_labels_of(pets, tmp_path / "foreign")
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == ["a", "b"]


def test_folders_that_do_not_fit_are_refused(pets: str, tmp_path: Path) -> None:
    def load(folder: Path) -> None:
        DatasetCatalog.get(register_pseudo_labels_of(pets, folder))

    few = {"a": label_of(1)}
    with pytest.raises(ValueError, match=r"no label image for 2 of the 3 .*\['b', 'c'\]"):
        load(write(tmp_path / "few", few))
    with pytest.raises(ValueError, match="label 1 is 'dog' and not 'cat'"):
        load(write(tmp_path / "order", three(), classes=["dog", "cat"]))
    wrong = {**three(), "b": label_of(1, size=(80, 60))}
    with pytest.raises(ValueError, match=r"b.png' has size \(80, 60\).*\(60, 80\)"):
        load(write(tmp_path / "size", wrong))


def test_the_training_loader_joins_sets_and_folders(cfg: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "labels", three())
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(folder),)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    for sample in batch:
        assert set(sample["sem_seg"].unique().tolist()) <= {0, 1, 2}
        assert "image_labels" not in sample
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(folder), str(folder))
    with pytest.raises(ValueError, match="2 folders for the 1 sets"):
        build_train_loader(cfg)
    nothing = {image_id: np.full(SIZE, 255, dtype=np.uint8) for image_id in "abc"}
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(write(tmp_path / "nothing", nothing)),)
    with pytest.raises(ValueError, match="nothing to train on"):
        build_train_loader(cfg)


def test_what_does_not_go_together_is_refused(cfg: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pets' has no label images.*PSEUDO_LABELS_TRAIN"):
        build_train_loader(cfg)
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(write(tmp_path / "labels", three())),)
    cfg.DATASETS.PSEUDO_GT_TRAIN = ("boxes.json",)
    with pytest.raises(ValueError, match="PSEUDO_GT_TRAIN holds boxes"):
        build_train_loader(cfg)
    cfg.DATASETS.PSEUDO_GT_TRAIN = ()
    for name in ("", "ImageLabelMapper"):
        cfg.INPUT.MAPPER_NAME = name
        with pytest.raises(ValueError, match=f"MAPPER_NAME '{name}' does not read"):
            build_train_loader(cfg)


def test_true_label_images_train_through_their_table_and_say_so(
    cfg: Any, pets: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A set like ``voc_2012_seg_train_labels``: other values in the files, a table in metadata."""
    lut = np.full(256, 255, dtype=np.uint8)
    lut[[0, 8, 12]] = [0, 1, 2]
    records = []
    for record in DatasetCatalog.get(pets):
        path = tmp_path / "truth" / f"{record['image_id']}.png"
        write_label_png(path, label_of(12))
        kept = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        records.append({**kept, "sem_seg_file_name": str(path)})
    DatasetCatalog.register("pets_labels", lambda: records)
    MetadataCatalog.get("pets_labels").set(thing_classes=CLASSES, label_lut=lut)
    cfg.DATASETS.TRAIN = ("pets_labels",)
    with caplog.at_level(logging.WARNING, logger="weaksam_d2.data.build"):
        batch = next(iter(build_train_loader(cfg)))
    assert all(set(sample["sem_seg"].unique().tolist()) == {0, 2} for sample in batch)
    assert "full supervision" in caplog.text
    (sample,) = next(iter(build_test_loader(cfg, "pets_labels")))
    assert not {"sem_seg", "sem_seg_file_name"} & set(sample)
