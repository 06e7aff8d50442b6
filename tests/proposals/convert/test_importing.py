"""Every format, written here by hand, as a store."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from weaksam_d2.artifacts import ForeignFileError, ProposalStore, RunManifest, list_outputs
from weaksam_d2.proposals.convert import import_proposals

Records = list[dict[str, Any]]
Import = Callable[..., ProposalStore]
FIRST, SECOND, THIRD = "000005", "2008_000002", "000012"
# Our boxes of the two images, in the order of falling scores.
OURS = {FIRST: [[10, 20, 30, 40], [0, 0, 60, 40]], SECOND: [[3, 1, 5, 4]], THIRD: []}
SCORES = {FIRST: [0.75, 0.5], SECOND: [0.25], THIRD: []}


@pytest.fixture()
def run(tmp_path: Path, records: Records) -> Import:
    def do(file: Path, name: str, **options: Any) -> ProposalStore:
        import_proposals(file, name, records, tmp_path / "store", **options)
        return ProposalStore.open(tmp_path / "store")

    return do


def dump(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(data))
    return path


def check(store: ProposalStore, *, scores: bool) -> None:
    assert store.image_ids == list(OURS)
    for image_id, boxes in OURS.items():
        item = store[image_id]
        assert item.boxes.tolist() == boxes, image_id
        assert item.image_size == (40, 60)
        if scores and boxes:
            assert item.scores is not None and item.scores.tolist() == SCORES[image_id]
    assert ("scores" in store.has) == scores
    assert store.check() == []


def test_detectron2_pickle(tmp_path: Path, run: Import) -> None:
    # Not in data set order, nor by falling score; ids as text and as a number.
    data = {
        "ids": [2008000002, THIRD, "000005"],
        "boxes": [np.array([[3, 1, 5, 4]]), np.zeros((0, 4)), np.array(OURS[FIRST][::-1], "f4")],
        "objectness_logits": [np.array([0.25]), np.zeros(0), np.array([0.5, 0.75], "f4")],
        "bbox_mode": 0,
    }
    check(run(dump(tmp_path, data), "detectron2"), scores=True)


def test_detectron_pickle_with_its_own_names_and_xywh(tmp_path: Path, run: Import) -> None:
    data = {
        "indexes": [5, 2008000002, 12],
        "boxes": [
            np.array([[10, 20, 20, 20], [0, 0, 60, 40]], np.uint16),
            np.array([[3, 1, 2, 3]], np.uint16),
            np.zeros((0, 4), np.uint16),
        ],
        "scores": [np.array(SCORES[i]) for i in OURS],
        "bbox_mode": 1,
    }
    check(run(dump(tmp_path, data), "detectron2"), scores=True)


def test_box_mode_of_detectron2_is_an_int(tmp_path: Path, run: Import) -> None:
    from detectron2.structures import BoxMode

    data = {
        "ids": list(OURS),
        "boxes": [np.array(b, "f4").reshape(-1, 4) for b in OURS.values()],
        "objectness_logits": [np.array(SCORES[i]) for i in OURS],
        "bbox_mode": BoxMode.XYXY_ABS,
    }
    check(run(dump(tmp_path, data), "detectron2"), scores=True)


def test_wetectron_pickle(tmp_path: Path, run: Import) -> None:
    data = {
        "indexes": [5, 12, 2008000002],
        "boxes": [
            np.array([[0, 0, 59, 39], [10, 20, 29, 39]], np.uint16),
            np.zeros((0, 4), np.uint16),
            np.array([[3, 1, 4, 3]], np.uint16),
        ],
        "scores": [np.array([0.5, 0.75], "f4"), np.zeros(0, "f4"), np.array([0.25], "f4")],
    }
    check(run(dump(tmp_path, data), "wetectron"), scores=True)


def test_wetectron_pickle_of_equal_scores_keeps_its_order(tmp_path: Path, run: Import) -> None:
    inclusive = [np.array(boxes).reshape(-1, 4) - (0, 0, 1, 1) for boxes in OURS.values()]
    data = {"ids": list(OURS), "boxes": inclusive, "scores": [np.ones(2), np.ones(1), []]}
    store = run(dump(tmp_path, data), "wetectron")
    assert {i: store[i].boxes.tolist() for i in OURS} == OURS


def test_mmdet_pickle_with_and_without_scores(tmp_path: Path, records: Records) -> None:
    with_scores = [
        np.column_stack([np.array(OURS[i]).reshape(-1, 4), SCORES[i]])[::-1] for i in OURS
    ]
    without = [np.array(OURS[i]).reshape(-1, 4) for i in OURS]
    for name, data in (("a", with_scores), ("b", without)):
        import_proposals(dump(tmp_path, data), "mmdet", records, tmp_path / name)
        check(ProposalStore.open(tmp_path / name), scores=name == "a")


@pytest.mark.parametrize("kind", ["list", "dict"])
@pytest.mark.parametrize("order", ["xyxy", "xywh"])
def test_weaksam_file_is_read_in_the_order_that_its_boxes_prove(
    tmp_path: Path, run: Import, kind: str, order: str
) -> None:
    # x2 and y2 (x + w, y + h) are the last pixel; the whole image proves nothing, the others do.
    rows = {
        "xyxy": [[[10, 20, 29, 39], [0, 0, 59, 39]], [[3, 1, 4, 3]], []],
        "xywh": [[[10, 20, 19, 19], [0, 0, 59, 39]], [[3, 1, 1, 2]], []],
    }[order]
    boxes = [np.array(part).reshape(-1, 4) for part in rows]
    data: Any = boxes if kind == "list" else {"boxes": boxes, "indexes": [5, 2008000002, 12]}
    check(run(dump(tmp_path, data), "weaksam"), scores=False)


def test_weaksam_file_that_proves_no_order_needs_the_word(tmp_path: Path, run: Import) -> None:
    data = [np.array([[0, 0, 59, 39]]), np.zeros((0, 4)), np.zeros(0)]
    with pytest.raises(ForeignFileError, match=r"file\.pkl: every box is possible.*--box-format"):
        run(dump(tmp_path, data), "weaksam")
    assert not (tmp_path / "store").exists()
    store = run(dump(tmp_path, data), "weaksam", box_format="xywh")
    assert store[FIRST].boxes.tolist() == [[0, 0, 60, 40]]


def test_selective_search_mat(tmp_path: Path, run: Import) -> None:
    boxes, images = np.empty((1, 3), object), np.empty((3, 1), object)
    boxes[0, 0] = np.array([[21, 11, 40, 30], [1, 1, 40, 60]], np.uint16)
    boxes[0, 1] = np.array([[2, 4, 4, 5]], float)
    boxes[0, 2] = np.zeros((0, 4))
    images[:, 0] = list(OURS)
    for compressed in (True, False):
        path = tmp_path / "SelectiveSearch.mat"
        scipy.io.savemat(path, {"boxes": boxes, "images": images}, do_compression=compressed)
        check(run(path, "selective_search", overwrite=True), scores=False)


def test_mcg_folder(tmp_path: Path, run: Import) -> None:
    folder = tmp_path / "mat" / "00"
    folder.mkdir(parents=True)
    rows = np.array([[1, 1, 40, 60], [21, 11, 40, 30]])
    scores = np.array([[0.5], [0.75]])
    scipy.io.savemat(folder / f"{FIRST}.mat", {"bboxes": rows, "bboxes_scores": scores})
    scipy.io.savemat(tmp_path / f"mat/{SECOND}.mat", {"boxes": [[2, 4, 4, 5]], "scores": [0.25]})
    scipy.io.savemat(folder / f"{THIRD}.mat", {"boxes": np.zeros((0, 4)), "scores": []})
    check(run(tmp_path / "mat", "mcg"), scores=True)


def test_coco_results_and_annotations(tmp_path: Path, records: Records) -> None:
    rows = [
        {"image_id": 2008000002, "category_id": 3, "bbox": [3, 1, 2, 3], "score": 0.25},
        {"image_id": FIRST, "category_id": 1, "bbox": [0, 0, 60, 40], "score": 0.5},
        {"image_id": FIRST, "category_id": 1, "bbox": [10, 20, 20, 20], "score": 0.75},
    ]
    for name, data in (("a", rows), ("b", {"annotations": rows, "images": []})):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(data))
        import_proposals(path, "coco", records, tmp_path / name, missing="empty")
        check(ProposalStore.open(tmp_path / name), scores=True)


def test_coco_segmentations_are_kept_beside_their_boxes(tmp_path: Path, run: Import) -> None:
    size = [40, 60]
    rows = [
        {"image_id": FIRST, "bbox": [0, 0, 5, 5], "score": 1, "segmentation":
            {"size": size, "counts": [9, 1, 2390]}},
        {"image_id": FIRST, "bbox": [1, 1, 5, 5], "score": 2, "segmentation":
            {"size": size, "counts": "91fZ2"}},
    ]  # fmt: skip
    path = tmp_path / "file.json"
    path.write_text(json.dumps(rows))
    item = run(path, "coco", missing="empty")[FIRST]
    assert item.boxes.tolist() == [[1, 1, 6, 6], [0, 0, 5, 5]]
    # The second is the first, compressed by hand: 9 -> "9", 1 -> "1", 2390 as three groups.
    assert item.masks == (b"91fZ2", b"91fZ2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": [[1, 1, 2, 2, 3, 3]]}, "polygons"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "not of the image's size"),
        ({"segmentation": {"size": [40, 60], "counts": [9, 1, 9]}}, "do not fill"),
        ({"segmentation": {"size": [40, 60], "counts": [-9, 2409]}}, "do not fill"),
        ({"segmentation": {"size": [40, 60], "counts": "zz"}}, "000005"),
        ({"segmentation": {"size": [40, 60], "counts": "é"}}, "000005"),
        ({"segmentation": {"size": [40, 60], "counts": "o" * 1000000}}, "000005"),
        ({}, "row 1 has 'segmentation', row 0 has not"),
    ],
)
def test_bad_segmentation_is_refused(
    tmp_path: Path, run: Import, change: dict[str, Any], words: str
) -> None:
    good = {"segmentation": {"size": [40, 60], "counts": [9, 1, 2390]}}
    rows = [{"image_id": FIRST, "bbox": [0, 0, 5, 5], **extra} for extra in (change, good)]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(ForeignFileError, match=words):
        run(path, "coco", missing="empty")


def test_csv_in_any_column_order_with_empty_scores(tmp_path: Path, records: Records) -> None:
    path = tmp_path / "file.csv"
    text = "note,x1,y1,x2,y2,image_id,score\n,0,0,60,40,000005,0.5\nabc,10,20,30,40,000005,0.75\n"
    path.write_text(f"{text}\n,3,1,5,4,2008_000002,0.25\n", encoding="utf-8-sig")
    import_proposals(path, "csv", records, tmp_path / "a", missing="empty")
    check(ProposalStore.open(tmp_path / "a"), scores=True)
    path.write_text("image_id,x1,y1,x2,y2,score\n000005,0,0,1,1,\n000005,0,0,2,2,1\n")
    import_proposals(path, "csv", records, tmp_path / "b", missing="empty")
    item = ProposalStore.open(tmp_path / "b")[FIRST]
    assert item.boxes.tolist() == [[0, 0, 2, 2], [0, 0, 1, 1]]  # a box without a score is last
    assert item.scores is not None and np.isnan(item.scores).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks the columns"),
        ("image_id,x1,y1,x2\na,1,2,3\n", r"lacks the columns \['y2'\]"),
        ("image_id,x1,y1,x2,y2\n000005,1,2,3\n", "line 2"),
        ("image_id,x1,y1,x2,y2\n000005,1,2,3,4\n000005,1,2,b,4\n", "line 3.*'b'"),
        ('image_id,x1,y1,x2,y2\n"000005,1,2,3,4\n', "line 2"),
    ],
)
def test_bad_csv_names_its_line(tmp_path: Path, run: Import, text: str, words: str) -> None:
    path = tmp_path / "file.csv"
    path.write_text(text)
    with pytest.raises(ForeignFileError, match=words):
        run(path, "csv", missing="empty")


def test_missing_images_stop_the_import_or_are_empty(tmp_path: Path, records: Records) -> None:
    data = {
        "ids": [FIRST, "other"],
        "boxes": [np.array(OURS[FIRST])] * 2,
        "scores": [np.ones(2)] * 2,
    }
    path, output = dump(tmp_path, data), tmp_path / "store"
    words = r"no proposals for 2 of 3 images.*'2008_000002', '000012'.*its own are \['other'\]"
    with pytest.raises(ForeignFileError, match=words):
        import_proposals(path, "wetectron", records, output)
    assert not output.exists()
    summary = import_proposals(
        path, "detectron2", records, output, missing="empty", manifest=RunManifest("proposals")
    )
    assert summary.missing == [SECOND, THIRD] and summary.surplus == ["other"]
    counts = RunManifest.read(output).counts
    assert counts == summary.counts()
    assert counts["missing_images"] == 2 and counts["surplus_examples"] == ["other"]
    assert RunManifest.read(output).outputs == list_outputs(output)


def test_boxes_are_clipped_and_what_is_left_out_is_counted(tmp_path: Path, run: Import) -> None:
    rows = np.array([[-0.5, 0, 60.5, 41], [5, 5, 5, 9], [np.nan, 0, 9, 9], [1, 1, np.inf, 9]])
    data = [rows, np.tile(OURS[FIRST], (200, 1)), np.zeros((0, 4))]
    path, output = dump(tmp_path, data), tmp_path / "counted"
    store = run(path, "mmdet")
    assert store[FIRST].boxes.tolist() == [[0, 0, 60, 40]]
    records = [{"image_id": i, "height": 40, "width": 60} for i in OURS]
    summary = import_proposals(path, "mmdet", records, output)
    assert (summary.proposals, summary.dropped, summary.misplaced) == (401, 3, 3)


def test_a_file_of_another_layout_is_refused(tmp_path: Path, run: Import) -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 30, (100, 2))
    xywh = np.concatenate([start, rng.integers(1, 10, (100, 2))], axis=1)
    data = [xywh, np.zeros((0, 4)), np.zeros((0, 4))]
    words = r"\d+ of 100 boxes have no area.*'mmdet' is probably not its format.*--max-misplaced"
    with pytest.raises(ForeignFileError, match=words):
        run(dump(tmp_path, data), "mmdet")
    assert [p.name for p in tmp_path.iterdir()] == ["file.pkl"]
    assert len(run(dump(tmp_path, data), "mmdet", max_misplaced=1)[FIRST]) < 100


def test_source_names_the_boxes_of_a_file(tmp_path: Path, run: Import) -> None:
    data = [np.array(OURS[i]).reshape(-1, 4) for i in OURS]
    store = run(dump(tmp_path, data), "mmdet", source="ss")
    assert store.source_names == ("ss",) and store[FIRST].sources is not None
    assert store[FIRST].sources.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "holds a list, expected a dict"),
        ({"ids": []}, r"lacks 'boxes'; it has 'ids'"),
        ({"ids": ["a"], "boxes": []}, "'boxes' has 0 entries, expected 1"),
        ({"ids": ["a"], "boxes": [[]]}, "lacks 'scores' or 'objectness_logits'"),
        ({"ids": 5, "boxes": []}, "'ids' is no list"),
        ({"ids": [], "boxes": [], "scores": [], "bbox_mode": 4}, "bbox_mode 4"),
        ({"ids": [], "boxes": [], "scores": [], "bbox_mode": "xyxy"}, "bbox_mode 'xyxy'"),
        ({"ids": ["a", "a"], "boxes": [[], []], "scores": [[], []]}, "lists image 'a' twice"),
    ],
)
def test_a_dict_without_its_lists_is_refused(
    tmp_path: Path, run: Import, data: Any, words: str
) -> None:
    with pytest.raises(ForeignFileError, match=words):
        run(dump(tmp_path, data), "detectron2", missing="empty")


def test_wrong_boxes_and_scores_name_their_image(tmp_path: Path, run: Import) -> None:
    data: dict[str, Any] = {"ids": list(OURS), "boxes": [np.zeros((2, 3)), [], []]}
    data["scores"] = [np.zeros(2), [], []]
    with pytest.raises(ForeignFileError, match=r"file\.pkl: image '000005'.*shape \(2, 3\)"):
        run(dump(tmp_path, data), "detectron2")
    data["boxes"][0] = np.ones((3, 4))
    with pytest.raises(ForeignFileError, match="'000005'.*for each of 3 boxes"):
        run(dump(tmp_path, data), "detectron2")
    data["boxes"][0], data["scores"][0] = np.array(OURS[FIRST]), np.array([1, np.inf])
    with pytest.raises(ForeignFileError, match="'000005' has an infinite score"):
        run(dump(tmp_path, data), "detectron2")


def test_a_list_of_another_number_of_images_is_refused(tmp_path: Path, run: Import) -> None:
    with pytest.raises(ForeignFileError, match="has 1 images, the data set 3"):
        run(dump(tmp_path, [np.zeros((1, 4))]), "mmdet")


def test_an_array_shared_by_many_images_is_a_trap(tmp_path: Path, records: Records) -> None:
    many = [{"image_id": str(i), "height": 40, "width": 60} for i in range(2000)]
    shared = np.tile(np.float32(OURS[FIRST]), (500, 1))
    with pytest.raises(ForeignFileError, match="unfolds to 2000000 boxes"):
        import_proposals(dump(tmp_path, [shared] * 2000), "mmdet", many, tmp_path / "store")


def test_unknown_names_and_values_list_what_there_is(tmp_path: Path, run: Import) -> None:
    with pytest.raises(ValueError, match="unknown format 'tar' to read.*'mmdet', 'sam_json"):
        run(tmp_path, "tar")
    with pytest.raises(ValueError, match="box_format 'xyxy' does not belong to the format 'mmdet'"):
        run(tmp_path, "mmdet", box_format="xyxy")
    with pytest.raises(ValueError, match="missing is 'skip'"):
        run(tmp_path, "mmdet", missing="skip")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"boxes": np.zeros((2, 4))}, "no cell array 'boxes'"),
        ({}, "no cell array 'boxes'"),
        ({"boxes": np.array([{"a": 1}, 2], object), "images": np.array(["a", "b"], object)},
         "a structure"),
        ({"boxes": np.array([np.zeros((1, 4)), 2.5], object), "images": np.array(["a"], object)},
         "2 boxes and 1 images"),
        ({"boxes": np.array([2.5, 2.5], object), "images": np.array([1.5, "a"], object)},
         "no text"),
    ],
)  # fmt: skip
def test_a_mat_file_without_its_cells_is_refused(
    tmp_path: Path, run: Import, content: dict[str, Any], words: str
) -> None:
    scipy.io.savemat(tmp_path / "file.mat", content)
    with pytest.raises(ForeignFileError, match=words):
        run(tmp_path / "file.mat", "selective_search", missing="empty")


def test_mcg_needs_a_folder_with_files(tmp_path: Path, run: Import) -> None:
    (tmp_path / "file.mat").touch()
    with pytest.raises(ForeignFileError, match="no folder"):
        run(tmp_path / "file.mat", "mcg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ForeignFileError, match="no .mat files"):
        run(tmp_path / "empty", "mcg")
