"""SAM's masks of other programs: JSON lists and folders of PNG files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.artifacts import ForeignFileError, ProposalStore
from weaksam_d2.ops import decode_rle, encode_rle
from weaksam_d2.proposals.convert import check_masks, import_proposals

Records = list[dict[str, Any]]
SIZE = (40, 60)
FIRST, SECOND, THIRD = "000005", "2008_000002", "000012"


def masks() -> np.ndarray:
    """Three masks: a rectangle, a cross, one pixel at the corner."""
    made = np.zeros((3, *SIZE), bool)
    made[0, 5:20, 10:30] = True
    made[1, 30, :] = made[1, :, 50] = True
    made[2, 39, 59] = True
    return made


BOXES = [[10, 5, 30, 20], [0, 0, 60, 40], [59, 39, 60, 40]]


def rle(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": encode_rle(mask[None])[0].decode()}


def written(folder: Path, name: str, content: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def run(path: Path, name: str, records: Records, **options: Any) -> ProposalStore:
    output = path.parent / "store"
    import_proposals(path, name, records, output, **{"missing": "empty", **options})
    store = ProposalStore.open(output)
    assert store.check() == [] and check_masks(store) == []
    assert store.image_ids == [FIRST, SECOND, THIRD]
    return store


def check(store: ProposalStore, image_id: str, rows: list[int]) -> None:
    item = store[image_id]
    assert item.boxes.tolist() == [BOXES[row] for row in rows]
    assert item.masks is not None
    decoded = decode_rle(item.masks, SIZE)
    assert np.array_equal(np.asarray(decoded).astype(bool), masks()[rows])


def test_a_list_of_segment_anything(tmp_path: Path, records: Records) -> None:
    """In the file's order, although the predicted IoU does not fall; its boxes are not taken."""
    rows = [
        {
            "segmentation": rle(mask),
            "area": int(mask.sum()),
            "bbox": [10, 5, 19, 14],
            "predicted_iou": iou,
            "point_coords": [[1, 2]],
            "stability_score": 0.96,
            "crop_box": [0, 0, 60, 40],
        }
        for mask, iou in zip(masks(), (0.5, 0.75, 0.25), strict=True)
    ]
    uncompressed = masks()[0].T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(uncompressed)) + 1
    counts = np.diff([0, *edges, uncompressed.size]).tolist()
    rows[0]["segmentation"] = {"size": list(SIZE), "counts": counts}
    folder = written(tmp_path / "sam", f"{FIRST}.json", rows)
    written(folder, f"{SECOND}.json", [])
    written(folder, "metadata.csv", "id,area")
    store = run(folder, "sam_json", records)
    check(store, FIRST, [0, 1, 2])
    item = store[FIRST]
    assert item.scores is not None and item.scores.tolist() == [0.5, 0.75, 0.25]
    assert item.stability is not None and item.stability.tolist() == [np.float32(0.96)] * 3
    assert len(store[SECOND]) == len(store[THIRD]) == 0


def test_a_dict_with_ranks(tmp_path: Path, records: Records) -> None:
    rows = [{"rle": rle(mask), "rank": rank} for mask, rank in zip(masks(), (2, 0, 1), strict=True)]
    content = {"size": list(SIZE), "masks": rows}
    store = run(written(tmp_path / "deep", f"{SECOND}.json", content), "sam_json", records)
    check(store, SECOND, [1, 2, 0])
    assert store.has == {"masks"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not valid JSON"),
        ({"a": 1}, "holds no list of masks"),
        ([1], "holds no list of masks"),
        ([{"segmentation": [[1, 2, 3]]}], "is no run lengths"),
        ([{}], "is no run lengths"),
        ([{"rle": {"size": [60, 40], "counts": [2400]}}],
         r"is of size '\[60, 40\]', not of the image's size \(40, 60\)"),
        ([{"rle": {"size": [40, 60], "counts": [9]}}], "do not fill an image"),
        ([{"rle": {"size": [40, 60], "counts": [2300, 100]}, "predicted_iou": "high"}],
         "where a number is expected"),
        ([{"rle": {"size": [40, 60], "counts": [2300, 100]}, "stability_score": float("inf")}],
         "infinite score"),
        ([{"rle": {"size": [40, 60], "counts": [2300, 100]}, "rank": 0},
          {"rle": {"size": [40, 60], "counts": [2300, 100]}}], "only some masks have 'rank'"),
    ],
)  # fmt: skip
def test_wrong_json_is_named(tmp_path: Path, records: Records, content: Any, message: str) -> None:
    folder = written(tmp_path / "sam", f"{FIRST}.json", content)
    with pytest.raises(ForeignFileError, match=message) as raised:
        run(folder, "sam_json", records)
    assert f"{FIRST}.json" in str(raised.value) or str(folder) in str(raised.value)
    assert not (tmp_path / "store").exists()


def pngs(folder: Path, image_id: str, arrays: dict[str, np.ndarray]) -> None:
    (folder / image_id).mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / image_id / name)


def test_folders_of_png_files_in_the_order_of_their_numbers(
    tmp_path: Path, records: Records
) -> None:
    gray = [np.where(mask, 255, 0).astype(np.uint8) for mask in masks()]
    gray[0] = np.where(masks()[0], 128, 127).astype(np.uint8)  # above 127 is inside
    pngs(tmp_path / "png", FIRST, {"2.png": gray[2], "10.png": gray[0], "1.png": gray[1]})
    (tmp_path / "png" / FIRST / "metadata.csv").write_text("id,area\n")
    (tmp_path / "png" / THIRD).mkdir()
    pngs(tmp_path / "png", SECOND, {"0.png": masks()[1]})  # of one bit
    store = run(tmp_path / "png", "sam_png", records)
    check(store, FIRST, [1, 2, 0])
    check(store, SECOND, [1])
    assert len(store[THIRD]) == 0 and store.has == {"masks"}


def test_an_empty_mask_is_left_out_and_counted(tmp_path: Path, records: Records) -> None:
    empty = np.zeros(SIZE, np.uint8)
    pngs(tmp_path / "png", FIRST, {"0.png": empty, "1.png": masks()[0]})
    with pytest.raises(ForeignFileError, match="1 of 2 boxes have no area"):
        run(tmp_path / "png", "sam_png", records)
    check(run(tmp_path / "png", "sam_png", records, max_misplaced=0.5), FIRST, [0])


def test_wrong_png_files_are_named(tmp_path: Path, records: Records) -> None:
    good = masks()[0]
    cases: list[tuple[str, Any, str]] = [
        ("0.png", good.T.copy(), r"0.png is 60 x 40 .* its image is 40 x 60"),
        ("0.png", np.zeros((*SIZE, 3), np.uint8), "0.png has mode RGB, expected a gray image"),
        ("a.png", good, "a.png is not named by a number"),
    ]
    for number, (name, array, message) in enumerate(cases):
        folder = tmp_path / str(number)
        pngs(folder, FIRST, {name: array})
        with pytest.raises(ForeignFileError, match=message):
            run(folder, "sam_png", records)
    (tmp_path / "bad" / FIRST).mkdir(parents=True)
    (tmp_path / "bad" / FIRST / "0.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ForeignFileError, match="0.png is no readable PNG"):
        run(tmp_path / "bad", "sam_png", records)
    for name, kind in (("sam_png", "folders of PNG"), ("sam_json", ".json files")):
        with pytest.raises(ForeignFileError, match=f"has no {kind}"):
            run(tmp_path / "nothing", name, records)
