"""Pseudo ground truth written annotation by annotation."""

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from weaksam_d2.artifacts import (
    ArtifactError,
    PseudoGroundTruth,
    PseudoGTWriter,
    read_pseudo_gt,
    write_pseudo_gt,
)

IMAGES: list[dict[str, Any]] = [
    {"id": name, "file_name": f"{name}.jpg", "height": 8, "width": 9} for name in ("a", "b")
]
CATEGORIES = [{"id": 5, "name": "Küken"}, {"id": 7, "name": "swan"}]
INFO = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": "0"}, "year": 2026}
BOX = {"image_id": "a", "category_id": 5, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.1}


def stream(path: Path, rows: list[dict[str, Any]]) -> None:
    with PseudoGTWriter(path, images=IMAGES, categories=CATEGORIES) as writer:
        for row in rows:
            writer.add(row)
        writer.finish(INFO)


@pytest.mark.parametrize("rows", [[], [BOX], [BOX, {**BOX, "category_id": 7}] * 3], ids=len)
def test_a_stream_gives_the_bytes_of_the_whole(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    stream(tmp_path / "new" / "s.json", rows)
    write_pseudo_gt(tmp_path / "w.json", PseudoGroundTruth(IMAGES, rows, CATEGORIES, INFO))
    assert (tmp_path / "new" / "s.json").read_bytes() == (tmp_path / "w.json").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.json"]
    content = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))
    assert list(content) == ["info", "images", "categories", "annotations"]
    assert content["info"]["year"] == 2026 and content["categories"] == CATEGORIES
    counts = {"images": 2, "annotations": len(rows), "images_without_annotation": 2 - bool(rows)}
    assert content["info"]["weaksam"]["counts"] == counts
    assert len(COCO(str(tmp_path / "w.json")).anns) == len(rows)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for row, words in (
        ({**BOX, "image_id": "c"}, "annotation 1: image_id 'c' is not among"),
        ({**BOX, "bbox": [1.0, 2.0, 0.0, 4.0]}, "annotation 1: bbox .* above 0"),
        ({**BOX, "segmentation": {"size": [8, 9], "counts": "X2"}}, "1 of 2 annotations"),
    ):
        with pytest.raises(ValueError, match=f"p.json: {words}"):
            stream(tmp_path / "p.json", [BOX, row])
    with pytest.raises(ValueError, match="p.json: images and categories must have distinct ids"):
        PseudoGTWriter(tmp_path / "p.json", images=IMAGES * 2, categories=CATEGORIES)
    writer = PseudoGTWriter(tmp_path / "p.json", images=IMAGES, categories=CATEGORIES)
    with writer, pytest.raises(ValueError, match="p.json: info.* must hold rule"):
        writer.finish({})
    assert list(tmp_path.iterdir()) == []


def test_a_stored_box_without_area_is_refused(tmp_path: Path) -> None:
    stream(tmp_path / "p.json", [BOX])
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    (tmp_path / "p.json").write_text(text.replace("3.0, 4.0]", "3.0, 0.0]"), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"p\.json: annotation 0: bbox .* above 0"):
        read_pseudo_gt(tmp_path / "p.json")
