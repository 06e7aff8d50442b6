"""Files that we write, read by the programs they are for, and by ourselves."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from weaksam_d2.artifacts import ProposalStore, load_plain_pickle
from weaksam_d2.proposals.convert import WRITERS, export_proposals, import_proposals

Records = list[dict[str, Any]]
Write = Callable[..., ProposalStore]
COUNTS = {"000005": 4, "2008_000002": 0, "000012": 300}


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("scores", ["rank", "stored"])
def test_a_round_trip_keeps_boxes_and_order(
    tmp_path: Path, records: Records, write_store: Write, name: str, scores: str
) -> None:
    store = write_store(COUNTS, scores=True, sources=("grid", "fine"))
    path = tmp_path / "file"
    export_proposals(store, name, path, scores=scores)
    import_proposals(path, name, records, tmp_path / "again", missing="empty")
    again = ProposalStore.open(tmp_path / "again")
    assert again.image_ids == store.image_ids
    for image_id in COUNTS:
        old, new = store[image_id], again[image_id]
        order = np.arange(len(old))
        if scores == "stored" and name not in ("detectron2", "selective_search"):
            order = np.argsort(-old.scores, kind="stable")  # an importer sorts by score
            np.testing.assert_array_equal(new.scores, old.scores[order])
        # The file of wetectron is float32, and shifted by a pixel; all others are exact.
        atol = 2e-6 if name == "wetectron" else 0
        np.testing.assert_allclose(new.boxes, old.boxes[order], rtol=0, atol=atol)
        assert new.image_size == old.image_size


def test_a_detectron2_pickle_keeps_every_field_but_masks(
    tmp_path: Path, records: Records, write_store: Write
) -> None:
    store = write_store(COUNTS, scores=True, sources=("grid", "fine"))
    export_proposals(store, "detectron2", tmp_path / "p.pkl", meta={"code_version": "1"})
    data = pickle.loads((tmp_path / "p.pkl").read_bytes())
    assert data["ids"] == list(COUNTS) and data["bbox_mode"] == 0
    assert data["meta"]["image_sizes"].tolist() == [[40, 60]] * 3
    assert data["meta"]["code_version"] == "1" and data["source"][0].dtype == np.int8
    for row, n in enumerate(COUNTS.values()):
        assert data["boxes"][row].shape == (n, 4) and data["boxes"][row].dtype == np.float32
        assert data["objectness_logits"][row].tolist() == [-i for i in range(n)]
    import_proposals(tmp_path / "p.pkl", "detectron2", records, tmp_path / "again")
    for file in ("boxes", "scores", "sources", "offsets", "sizes"):
        ours = (store.path / f"{file}.npy").read_bytes()
        assert (tmp_path / "again" / f"{file}.npy").read_bytes() == ours


def test_detectron2_loads_our_file_in_its_order(tmp_path: Path, write_store: Write) -> None:
    from detectron2.data.build import load_proposals_into_dataset

    store = write_store(COUNTS)
    export_proposals(store, "detectron2", tmp_path / "p.pkl")
    loaded = load_proposals_into_dataset(
        [{"image_id": image_id} for image_id in COUNTS], str(tmp_path / "p.pkl")
    )
    for record in loaded:
        boxes = store[record["image_id"]].boxes
        np.testing.assert_array_equal(record["proposal_boxes"], boxes)
        np.testing.assert_array_equal(
            record["proposal_objectness_logits"], -np.arange(len(boxes), dtype=np.float32)
        )


def test_wetectron_gets_numbers_and_inclusive_boxes(tmp_path: Path, write_store: Write) -> None:
    store = write_store(COUNTS)
    export_proposals(store, "wetectron", tmp_path / "p.pkl")
    data = pickle.loads((tmp_path / "p.pkl").read_bytes())
    assert data["indexes"] == [5, 2008000002, 12] and data["original_id"] == list(COUNTS)
    expected = store["000005"].boxes - np.float32([0, 0, 1, 1])
    np.testing.assert_allclose(data["boxes"][0], expected, rtol=0, atol=2e-6)
    assert data["scores"][0].tolist() == [0, -1, -2, -3]


def test_wetectron_numbers_images_whose_ids_are_no_numbers(
    tmp_path: Path, write_store: Write, records: Records
) -> None:
    for ids in (("a", "b"), ("1_1", "11")):
        store = write_store(dict.fromkeys(ids, 2), name=ids[0])
        export_proposals(store, "wetectron", tmp_path / "p.pkl", overwrite=True)
        assert load_plain_pickle(tmp_path / "p.pkl")["indexes"] == [1, 2]
        own = [{**records[0], "image_id": image_id, "file_name": ""} for image_id in ids]
        import_proposals(tmp_path / "p.pkl", "wetectron", own, tmp_path / f"{ids[0]}2")


def test_mmdet_gets_arrays_of_five_columns(tmp_path: Path, write_store: Write) -> None:
    store = write_store(COUNTS, scores=True)
    export_proposals(store, "mmdet", tmp_path / "p.pkl", scores="stored")
    data = pickle.loads((tmp_path / "p.pkl").read_bytes())
    assert [part.shape for part in data] == [(4, 5), (0, 5), (300, 5)]
    np.testing.assert_array_equal(data[0][:, 4], store["000005"].scores)


def test_selective_search_gets_the_cells_of_fast_rcnn(tmp_path: Path, write_store: Write) -> None:
    store = write_store(COUNTS)
    export_proposals(store, "selective_search", tmp_path / "p.mat")
    data = scipy.io.loadmat(tmp_path / "p.mat")
    assert [str(cell[0]) for cell in data["images"].ravel()] == list(COUNTS)
    x1, y1, x2, y2 = store["000005"].boxes[0].astype(float)
    assert data["boxes"].ravel()[0][0].tolist() == [y1 + 1, x1 + 1, y2, x2]


def test_coco_tools_read_our_results_with_masks(tmp_path: Path, write_store: Write) -> None:
    from pycocotools.coco import COCO

    store = write_store({"7": 2, "12": 3}, masks=True)
    export_proposals(store, "coco", tmp_path / "p.json")
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": 40, "width": 60} for i in (7, 12)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [],
    }
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "p.json"))
    rows = results.loadAnns(results.getAnnIds([7]))
    assert [int(results.annToMask(row).sum()) for row in rows] == [1, 2]
    assert [row["score"] for row in rows] == [0, -1]
    x1, y1, x2, y2 = store["7"].boxes[0].astype(float).tolist()
    assert json.loads((tmp_path / "p.json").read_text())[0]["bbox"] == [x1, y1, x2 - x1, y2 - y1]


def test_masks_survive_coco(tmp_path: Path, write_store: Write, records: Records) -> None:
    store = write_store({"000005": 3}, masks=True)
    export_proposals(store, "coco", tmp_path / "p.json")
    import_proposals(tmp_path / "p.json", "coco", records, tmp_path / "again", missing="empty")
    assert ProposalStore.open(tmp_path / "again")["000005"].masks == store["000005"].masks


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_store_without_any_box_can_be_written_and_read(
    tmp_path: Path, records: Records, write_store: Write, name: str
) -> None:
    export_proposals(write_store(dict.fromkeys(COUNTS, 0)), name, tmp_path / "file")
    import_proposals(tmp_path / "file", name, records, tmp_path / "again", missing="empty")
    assert ProposalStore.open(tmp_path / "again").counts().tolist() == [0, 0, 0]


def test_csv_is_a_plain_table(tmp_path: Path, write_store: Write) -> None:
    store = write_store({"a,b": 1, "ü": 1})
    export_proposals(store, "csv", tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8", newline="")))
    assert [row["image_id"] for row in rows] == ["a,b", "ü"]
    assert np.float32(rows[0]["x1"]) == store["a,b"].boxes[0, 0]


def test_a_box_without_a_score_cannot_be_written_with_one(
    tmp_path: Path, write_store: Write
) -> None:
    store = write_store({"a": 1})
    with pytest.raises(ValueError, match="image 'a' has boxes without a score; --scores rank"):
        export_proposals(store, "csv", tmp_path / "p.csv", scores="stored")
    assert not (tmp_path / "p.csv").exists()


def test_wrong_names_and_existing_files_are_refused(tmp_path: Path, write_store: Write) -> None:
    store, path = write_store({"a": 1}), tmp_path / "p.csv"
    with pytest.raises(ValueError, match="unknown format 'mcg' to write.*'coco', 'csv'"):
        export_proposals(store, "mcg", path)
    with pytest.raises(ValueError, match="scores is 'best'"):
        export_proposals(store, "csv", path, scores="best")
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_proposals(store, "csv", path)
    assert path.read_text() == "mine"


def test_equal_stores_give_equal_files(tmp_path: Path, write_store: Write) -> None:
    stores = [write_store(COUNTS, name=name, scores=True) for name in ("a", "b")]
    for name in set(WRITERS) - {"selective_search"}:  # MATLAB's header holds the time
        for store in stores:
            export_proposals(store, name, tmp_path / f"{store.path.name}.{name}")
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()
