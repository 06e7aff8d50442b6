"""Layouts of the evaluation servers: written, read back, refused where they would be wrong."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from weaksam_d2.artifacts import ArtifactError, CategoryMap
from weaksam_d2.evaluation import read_voc_results, write_coco_results, write_voc_results
from weaksam_d2.evaluation.submission import coco_results_name, voc_results_path, write_archive

CATEGORIES = CategoryMap(["cat", "dog", "cow"], [3, 17, 5])
IDS = ["2008_000002", "2008_000006", "2008_000007"]


def detections(count: int = 40) -> list[dict]:
    """Boxes and scores as they leave a detector: float32, half-open, some at the border."""
    rng = np.random.default_rng(0)
    boxes = np.concatenate([[[0, 0, 1, 1]], rng.uniform(0, 500, (count - 1, 4))]).astype(np.float32)
    scores = rng.uniform(0, 1, count).astype(np.float32) ** 8
    return [
        {
            "image_id": IDS[number % 2],
            "category_id": (3, 17)[number % 3 == 0],
            "bbox": [float(value) for value in (*box[:2], *np.abs(box[2:]))],
            "score": float(score),
        }
        for number, (box, score) in enumerate(zip(boxes, scores, strict=True))
    ]


def by_class(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: CATEGORIES.to_contiguous(row["category_id"]))


@pytest.mark.parametrize("naming", [{}, {"competition": "comp4", "year": 2007}])
def test_voc_results_come_back_as_they_were(tmp_path: Path, naming: dict) -> None:
    rows = detections()
    paths = write_voc_results(tmp_path, rows, CATEGORIES, image_ids=IDS, **naming)
    assert [path.name.rpartition("_")[2] for path in paths] == ["cat.txt", "dog.txt", "cow.txt"]
    assert paths[2].read_text() == "", "a class without detections has a file"
    assert read_voc_results(tmp_path, CATEGORIES, **naming) == by_class(rows)


def test_voc_files_lie_where_the_server_looks(tmp_path: Path) -> None:
    place = "results/VOC2012/Main/comp3_det_test_dog.txt"
    assert voc_results_path("dog").as_posix() == place
    write_voc_results(tmp_path, detections(), CATEGORIES, image_ids=IDS)
    assert (tmp_path / place).is_file()
    with pytest.raises(ValueError, match="competition must be one of"):
        voc_results_path("dog", competition="comp5")


def test_voc_pixels_count_from_one_and_the_last_belongs_to_the_box(tmp_path: Path) -> None:
    row = {"image_id": IDS[0], "category_id": 3, "bbox": [47, 239, 148, 132], "score": 3e-7}
    path = write_voc_results(tmp_path, [row], CATEGORIES, image_ids=IDS)[0]
    name, *numbers = path.read_text().split()
    assert name == IDS[0]
    assert [float(number) for number in numbers] == [3e-7, 48, 240, 195, 371]


def test_voc_rows_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    rows = detections()
    with pytest.raises(ValueError, match="'2008_000002', which is not among the 1 images"):
        write_voc_results(tmp_path, rows, CATEGORIES, image_ids=IDS[1:2])
    with pytest.raises(ValueError, match="category id 99"):
        write_voc_results(tmp_path, [{**rows[0], "category_id": 99}], CATEGORIES, image_ids=IDS)
    write_voc_results(tmp_path, rows, CATEGORIES, image_ids=IDS)
    broken = tmp_path / voc_results_path("cow")
    broken.write_text("2008_000002 0.5 1 2 3\n")
    with pytest.raises(ArtifactError, match=r"cow.txt:1: .*expected 'id score"):
        read_voc_results(tmp_path, CATEGORIES)


def test_coco_boxes_are_what_pycocotools_loads(tmp_path: Path) -> None:
    rows = [{**row, "image_id": str(number)} for number, row in enumerate(detections(), start=1)]
    path = tmp_path / coco_results_name("ours-1.0")
    assert path.name == "detections_test-dev2017_ours-1.0_results.json"
    write_coco_results(path, rows)
    written = json.loads(path.read_text())
    assert written == [{**row, "image_id": int(row["image_id"])} for row in rows]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(1, 41)],
        "categories": CATEGORIES.categories(),
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(path))
    assert [loaded.anns[number]["bbox"] for number in range(1, 41)] == [r["bbox"] for r in rows]


def test_coco_masks_come_back_without_boxes(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 2:7] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    segmentation = {"size": code["size"], "counts": code["counts"].decode()}
    row = {**detections()[0], "image_id": 7, "segmentation": segmentation}
    path = tmp_path / "masks.json"
    write_coco_results(path, [row], task="segm")
    (written,) = json.loads(path.read_text())
    assert set(written) == {"image_id", "category_id", "segmentation", "score"}
    assert (coco_mask.decode(written["segmentation"]) == mask).all()


def test_coco_rows_that_the_server_would_refuse_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    row = {**detections()[0], "image_id": 7}
    with pytest.raises(ValueError, match="detection 1 has no segmentation"):
        write_coco_results(path, [{**row, "segmentation": {}}, row], task="segm")
    with pytest.raises(ValueError, match="image '2008_000002'; COCO's ids are integers"):
        write_coco_results(path, detections())
    with pytest.raises(ValueError, match="task must be one of"):
        write_coco_results(path, [], task="keypoints")
    with pytest.raises(ValueError, match="'my name'"):
        coco_results_name("my name")
    assert not path.exists()


def test_archives_hold_relative_names(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_voc_results(folder, detections(), CATEGORIES, image_ids=IDS)
    write_archive(tmp_path / "voc.tar.gz", folder)
    write_archive(tmp_path / "coco.zip", folder)
    expected = [voc_results_path(name).as_posix() for name in ("cat", "cow", "dog")]
    with tarfile.open(tmp_path / "voc.tar.gz") as tar:
        assert tar.getnames() == expected
    with zipfile.ZipFile(tmp_path / "coco.zip") as packed:
        assert packed.namelist() == expected
    with pytest.raises(ValueError, match=r"must end with .zip or .tar.gz"):
        write_archive(tmp_path / "coco.rar", folder)
