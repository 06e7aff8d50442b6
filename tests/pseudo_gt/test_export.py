"""Pseudo ground truth in the layouts of other programs, read back by readers or by their math."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.structures import BoxMode
from PIL import Image

from weaksam_d2.artifacts import PseudoGroundTruth, read_pseudo_gt, write_pseudo_gt
from weaksam_d2.data.datasets.voc import load_voc_records
from weaksam_d2.pseudo_gt import export_pseudo_gt
from weaksam_d2.pseudo_gt.export import voc_box, yolo_box

WIDTH, HEIGHT = 90, 60
NAMES = ["cat", "dog & <pup>"]


def pseudo_gt(tmp_path: Path, *rows: tuple[str, int, list[float]], names: Any = "abc") -> Any:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in names]
    annotations = [
        {"image_id": i, "category_id": c, "bbox": b, "score": 0.25, "score_norm": 0.5}
        for i, c, b in rows
    ]
    categories = [{"id": 7, "name": NAMES[0]}, {"id": 3, "name": NAMES[1]}]
    info = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": "0"}}
    write_pseudo_gt(tmp_path / "p.json", PseudoGroundTruth(images, annotations, categories, info))
    return read_pseudo_gt(tmp_path / "p.json")


BOXES = [("a", 7, [0, 0, 90, 60]), ("a", 3, [10, 20, 30, 7]), ("c", 3, [89, 59, 1, 1])]


def image_folder(tmp_path: Path, names: str = "abc") -> Path:
    folder = tmp_path / "somewhere" / "pictures"
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{name}.jpg")
    return folder


def new(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("copy", [False, True])
def test_two_readers_of_voc_read_the_same_boxes_back(tmp_path: Path, copy: bool) -> None:
    pgt, images, out = pseudo_gt(tmp_path, *BOXES), image_folder(tmp_path), new(tmp_path)
    counts = export_pseudo_gt(pgt, out, "voc", images=images, copy_images=copy)
    assert counts == {"images": 3, "boxes": 3, "images_without_box": 1}
    expected = {
        "a": [(0, [0, 0, 90, 60]), (1, [10, 20, 40, 27])],
        "b": [],
        "c": [(1, [89, 59, 90, 60])],
    }
    for records in (
        load_voc_instances(str(out), "train", NAMES),
        load_voc_records(out, "train", NAMES),
    ):
        found = {
            record["image_id"]: [(a["category_id"], list(a["bbox"])) for a in record["annotations"]]
            for record in records
        }
        assert found == expected
        assert {(r["height"], r["width"]) for r in records} == {(HEIGHT, WIDTH)}
        assert all(Path(record["file_name"]).is_file() for record in records)
    assert (out / "JPEGImages").is_symlink() is not copy
    assert "<score>0.25</score>" in (out / "Annotations" / "a.xml").read_text()
    labels = (out / "labelmap.txt").read_text().splitlines()
    assert labels[1:] == [f"{name}:::" for name in NAMES]


@pytest.mark.parametrize(
    ("bbox", "pixels"),
    [
        ([0, 0, 90, 60], (1, 1, 90, 60)),
        ([0.4, 0.6, 10, 10], (1, 2, 10, 11)),
        ([89.7, 59.6, 0.3, 0.4], (90, 60, 90, 60)),  # the last pixel, not one behind it
        ([10.6, 10.6, 0.3, 0.3], (12, 12, 12, 12)),
        ([0.5, 0.5, 1, 1], (2, 2, 2, 2)),
    ],
)
def test_pixels_are_counted_from_one_inside_the_image(
    bbox: list[float], pixels: tuple[int, ...]
) -> None:
    assert voc_box(bbox, WIDTH, HEIGHT) == pixels


def test_random_boxes_move_by_half_a_pixel_at_most_in_voc_and_not_in_yolo() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, y = rng.random(2) * (WIDTH - 1), rng.random(2) * (HEIGHT - 1)
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
        xmin, ymin, xmax, ymax = voc_box(bbox, WIDTH, HEIGHT)
        assert 1 <= xmin <= xmax <= WIDTH and 1 <= ymin <= ymax <= HEIGHT
        assert np.abs(np.array([xmin - 1, ymin - 1, xmax, ymax]) - box).max() <= 0.5 + 1e-9
        cx, cy, w, h = yolo_box(bbox, WIDTH, HEIGHT)
        back = [(cx - w / 2) * WIDTH, (cy - h / 2) * HEIGHT]
        back += [(cx + w / 2) * WIDTH, (cy + h / 2) * HEIGHT]
        np.testing.assert_allclose(back, box, atol=1e-9)


def test_yolo_lists_images_with_boxes_and_has_a_label_file_for_each(tmp_path: Path) -> None:
    pgt, images, out = pseudo_gt(tmp_path, *BOXES), image_folder(tmp_path), new(tmp_path)
    export_pseudo_gt(pgt, out, "yolo", images=images)
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data == {"train": "train.txt", "val": "train.txt", "names": {0: NAMES[0], 1: NAMES[1]}}
    listed = (out / "train.txt").read_text().split()
    assert listed == ["./images/train/a.jpg", "./images/train/c.jpg"]
    for line in listed:  # a trainer finds the labels by this exchange of words
        assert (out / line).is_file()
        assert (out / line.replace("/images/", "/labels/").replace(".jpg", ".txt")).is_file()
    assert (out / "labels/train/b.txt").read_text() == ""
    rows = np.loadtxt(out / "labels/train/a.txt")
    np.testing.assert_allclose(rows[0], [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(rows[1], [1, 25 / 90, 23.5 / 60, 30 / 90, 7 / 60], atol=1e-9)
    assert (out / "classes.txt").read_text().splitlines() == NAMES
    assert (out / "labels/train/classes.txt").read_text().splitlines() == NAMES


def test_coco_has_whole_numbers_as_ids_and_keeps_the_scores(tmp_path: Path) -> None:
    pgt, images, out = pseudo_gt(tmp_path, *BOXES), image_folder(tmp_path), new(tmp_path)
    export_pseudo_gt(pgt, out, "coco", images=images, split="mine")
    path = out / "annotations" / "instances_mine.json"
    content = json.loads(path.read_text())
    assert [(i["id"], i["original_id"]) for i in content["images"]] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]
    assert [a["image_id"] for a in content["annotations"]] == [1, 1, 3]
    assert {(a["score"], a["score_norm"]) for a in content["annotations"]} == {(0.25, 0.5)}
    records = load_coco_json(str(path), str(out / "images"))
    assert [len(record["annotations"]) for record in records] == [2, 0, 1]
    first = records[0]["annotations"][1]
    assert first["bbox"] == [10, 20, 30, 7] and first["bbox_mode"] == BoxMode.XYWH_ABS
    assert all(Path(record["file_name"]).is_file() for record in records)


def test_copies_are_files_and_the_images_stay(tmp_path: Path) -> None:
    pgt, images, out = pseudo_gt(tmp_path, *BOXES), image_folder(tmp_path, "abcd"), new(tmp_path)
    export_pseudo_gt(pgt, out, "yolo", images=images, copy_images=True)
    copies = sorted(path.name for path in (out / "images" / "train").iterdir())
    assert copies == ["a.jpg", "b.jpg", "c.jpg"]  # d is not in the file
    assert not (out / "images" / "train").is_symlink() and len(list(images.iterdir())) == 4


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_no_boxes_and_no_images_are_legal(tmp_path: Path, layout: str) -> None:
    out = new(tmp_path)
    assert export_pseudo_gt(pseudo_gt(tmp_path), out, layout)["images_without_box"] == 3
    assert not list(out.rglob("*.jpg")) and not any(p.is_symlink() for p in out.rglob("*"))
    (tmp_path / "empty").mkdir()
    nothing = pseudo_gt(tmp_path, names="")
    assert export_pseudo_gt(nothing, tmp_path / "empty", layout)["images"] == 0


def test_names_in_folders_are_kept(tmp_path: Path) -> None:
    out = new(tmp_path)
    pgt = pseudo_gt(tmp_path, ("u/a", 7, [0, 0, 9, 9]), names=["u/a", "v/a"])
    export_pseudo_gt(pgt, out, "voc")
    assert (out / "ImageSets/Main/train.txt").read_text().split() == ["u/a", "v/a"]
    assert (out / "Annotations/u/a.xml").is_file() and (out / "Annotations/v/a.xml").is_file()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    pgt, images, out = pseudo_gt(tmp_path, *BOXES), image_folder(tmp_path, "ac"), new(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"1 images are not in .*\['b.jpg'\]"):
        export_pseudo_gt(pgt, out, "voc", images=images)
    with pytest.raises(ValueError, match="'kitti', expected one of coco, voc, yolo"):
        export_pseudo_gt(pgt, out, "kitti")
    with pytest.raises(ValueError, match="say in which folder"):
        export_pseudo_gt(pgt, out, "coco", copy_images=True)
    with pytest.raises(ValueError, match=r"stay in their folder: \['../a.jpg'\]"):
        export_pseudo_gt(pseudo_gt(tmp_path, names=["../a"]), out, "coco")
    twins = pseudo_gt(tmp_path, names=["a", "b"])
    twins.images[1]["file_name"] = "a.png"
    with pytest.raises(ValueError, match="differ in their suffix only"):
        export_pseudo_gt(twins, out, "yolo")
