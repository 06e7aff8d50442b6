"""Masks for the boxes of a data set, image by image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter, PseudoGroundTruth
from weaksam_d2.ops import encode_rle
from weaksam_d2.pseudo_gt import (
    MaskCounts,
    MaskSettings,
    check_pseudo_boxes,
    generate_masks,
    part_of,
)
from weaksam_d2.sam import FakeSam

SIZE = (40, 60)


class Counting(FakeSam):
    """Counts how often an image is encoded."""

    encodings = 0

    def encode(self, image: np.ndarray) -> Any:
        Counting.encodings += 1
        return super().encode(image)


@pytest.fixture()
def records(tmp_path: Path) -> list[dict[str, Any]]:
    made = []
    for name in "abc":
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
        made.append({"file_name": str(path), "image_id": name, "height": 40, "width": 60})
    return made


def row(image_id: str, *bbox: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": list(bbox), "score": 0.5, "extra": 1}


ROWS = {"a": [row("a", 1, 1, 20, 10), row("a", 30, 5, 8, 8)], "c": [row("c", 0, 0, 60, 40)]}


def run(records: Any, rows: Any = ROWS, **options: Any) -> tuple[list[dict[str, Any]], MaskCounts]:
    counts = MaskCounts()
    options.setdefault("settings", MaskSettings())
    made = list(generate_masks(records, rows, Counting, counts=counts, **options))
    return made, counts


def test_each_image_is_encoded_once_and_one_without_boxes_not_at_all(records: Any) -> None:
    before, seen = Counting.encodings, []
    made, counts = run(records, on_progress=seen.append)
    assert Counting.encodings - before == 2 and seen == [1, 1, 1]
    assert counts.counts() == {
        "images": 3,
        "annotations": 3,
        "encoded": 2,
        "reused": 0,
        "fallback": 0,
        "mostly_outside": 0,
    }
    assert [one["bbox"] for one in made] == [r["bbox"] for key in "ac" for r in ROWS[key]]
    assert all(one["segmentation"]["size"] == [40, 60] and one["extra"] == 1 for one in made)
    assert all("fallback" not in one and "source" not in one for one in made)


def test_a_box_may_be_replaced_by_that_of_its_mask(records: Any) -> None:
    settings = MaskSettings("best_of_3", box="mask")
    made, _ = run(records, settings=settings)
    assert made[1]["bbox"] == [32.0, 7.0, 4.0, 4.0] and made[1]["source"] == "sam"


def test_stored_masks_are_taken_and_only_the_rest_is_decoded(records: Any, tmp_path: Path) -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 1:11, 1:5] = True
    codes = encode_rle(mask)
    with ProposalStoreWriter(tmp_path / "store") as writer:
        for name, box in (("a", [1, 1, 21, 11]), ("b", [0, 0, 3, 3]), ("c", [0, 0, 60, 40])):
            writer.add(name, np.array([box], np.float32), masks=codes, image_size=SIZE)
    store = ProposalStore.open(tmp_path / "store")
    before = Counting.encodings
    made, counts = run(records, stored=store)
    assert Counting.encodings - before == 1  # "c" needs no network
    assert (counts.reused, counts.encoded) == (2, 1)
    assert made[0]["segmentation"]["counts"] == codes[0].decode()
    assert made[1]["segmentation"]["counts"] == run(records)[0][1]["segmentation"]["counts"]


def test_an_image_of_another_size_is_refused(records: Any) -> None:
    records[0]["height"] = 41
    with pytest.raises(ValueError, match="40 x 60"):
        run(records)


def test_true_boxes_are_refused() -> None:
    info = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": ""}}
    truth = PseudoGroundTruth([], [row("a", 0, 0, 1, 1)], [], info)
    check_pseudo_boxes(truth, "p.json")
    del truth.annotations[0]["score"]
    with pytest.raises(ValueError, match=r"'p\.json'.*no score"):
        check_pseudo_boxes(truth, "p.json")


def test_a_part_has_the_images_of_its_records(records: Any) -> None:
    images = [{"id": name} for name in "cba"]
    truth = PseudoGroundTruth(images, [*ROWS["a"], *ROWS["c"]], [{"id": 1}], {"weaksam": {}})
    part = part_of(truth, records[1:])
    assert [one["id"] for one in part.images] == ["c", "b"]
    assert part.annotations == ROWS["c"] and part.categories == truth.categories
