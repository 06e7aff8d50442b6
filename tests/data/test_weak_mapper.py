"""Mappers: what a weak batch holds, and what it must never hold."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import DamagedImageError, ImageLabelMapper, WeakDatasetMapper
from weaksam_d2.data.weak_mapper import usable_boxes

BOXES = [[10, 10, 50, 40], [0, 0, 80, 60], [10, 10, 50, 40], [1, 1, 4, 30], [70, 50, 80, 60]]


@pytest.fixture()
def record(tmp_path: Path, save_image: Callable[..., Path]) -> dict[str, Any]:
    path = save_image(tmp_path / "a.png")
    size = {"height": 60, "width": 80}
    return {"file_name": str(path), "image_id": "a", "image_labels": [1, 4], **size}


@pytest.fixture()
def make(proposal_store: Callable[..., str]) -> Callable[..., WeakDatasetMapper]:
    def make_mapper(boxes: Any = BOXES, is_train: bool = True, **kwargs: Any) -> WeakDatasetMapper:
        arguments: dict[str, Any] = {
            "augmentations": [T.Resize((30, 40))],
            "image_format": "RGB",
            "precomputed_proposal_topk": 100,
            "min_side": 4,
            "proposal_stores": [proposal_store({"a": boxes})],
        }
        return WeakDatasetMapper(is_train, **{**arguments, **kwargs})

    return make_mapper


def test_a_batch_holds_image_labels_and_proposals_only(make: Any, record: dict[str, Any]) -> None:
    mapped = make()(record)
    assert set(mapped) == {
        "file_name", "image_id", "height", "width", "image", "proposals", "image_labels",
    }  # fmt: skip
    assert mapped["image"].shape == (3, 30, 40) and mapped["image"].dtype == torch.uint8
    assert mapped["image_labels"].dtype == torch.int64
    assert mapped["image_labels"].tolist() == [1, 4]
    assert set(mapped["proposals"].get_fields()) == {"proposal_boxes", "objectness_logits"}
    assert record["image_labels"] == [1, 4]  # the data set's record is not touched


def test_proposals_keep_file_order_without_duplicates_and_slivers(
    make: Any, record: dict[str, Any]
) -> None:
    proposals = make()(record)["proposals"]
    expected = np.array([BOXES[0], BOXES[1], BOXES[4]]) / 2  # the image is resized to a half
    assert np.allclose(proposals.proposal_boxes.tensor.numpy(), expected)
    assert proposals.objectness_logits.tolist() == [0, -1, -2]


def test_flip_moves_boxes_with_the_pixels(make: Any, record: dict[str, Any]) -> None:
    mapped = make(augmentations=[T.RandomFlip(prob=1.0)])(record)
    assert mapped["proposals"].proposal_boxes.tensor[0].tolist() == [30, 10, 70, 40]


@pytest.mark.parametrize("scale", [0.25, 1, 3])
def test_the_side_filter_acts_on_original_pixels(
    make: Any, record: dict[str, Any], scale: float
) -> None:
    sizes = T.Resize((int(60 * scale), int(80 * scale)))
    assert len(make(min_side=10, augmentations=[sizes])(record)["proposals"]) == 3
    assert len(make(min_side=11, augmentations=[sizes])(record)["proposals"]) == 2


@pytest.mark.parametrize("boxes", [[], [[1, 1, 4, 30]]])
def test_an_image_without_usable_proposal_gets_one_full_box(
    make: Any, record: dict[str, Any], boxes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mapper = make(boxes=boxes)
    with caplog.at_level(logging.INFO, logger="weaksam_d2.data.weak_mapper"):
        for _ in range(3):
            mapped = mapper(record)
    assert mapped["proposals"].proposal_boxes.tensor.tolist() == [[0, 0, 40, 30]]
    assert mapper.full_image_count == 3
    assert sum("full-image box" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize("key", ["annotations", "sem_seg_file_name", "instances"])
@pytest.mark.parametrize("is_train", [True, False])
def test_records_with_annotations_are_refused(
    make: Any, record: dict[str, Any], key: str, is_train: bool
) -> None:
    with pytest.raises(ValueError, match=f"image 'a'.*'{key}'"):
        make(is_train=is_train)({**record, key: []})


def test_labels_reach_a_test_batch_only_where_asked(make: Any, record: dict[str, Any]) -> None:
    assert "image_labels" not in make(is_train=False)(record)
    assert make(is_train=False, keep_test_labels=True)(record)["image_labels"].tolist() == [1, 4]
    del record["image_labels"]
    with pytest.raises(ValueError, match="no image_labels"):
        make()(record)


def test_an_image_without_tag_stays(make: Any, record: dict[str, Any]) -> None:
    labels = make()({**record, "image_labels": []})["image_labels"]
    assert labels.shape == (0,) and labels.dtype == torch.int64


def test_an_unknown_image_names_id_and_store(make: Any, record: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="'b' is not in the proposal store.*proposals"):
        make()({**record, "image_id": "b"})


def test_records_name_their_store_where_ids_repeat(
    make: Any, record: dict[str, Any], proposal_store: Callable[..., str]
) -> None:
    stores = [proposal_store({"a": [BOXES[k]]}, f"store{k}") for k in (0, 1)]
    mapper = make(proposal_stores=stores)
    with pytest.raises(ValueError, match="several proposal stores"):
        mapper(record)
    mapped = mapper({**record, "proposal_file": stores[1]})
    assert mapped["proposals"].proposal_boxes.tensor.tolist() == [[0, 0, 40, 30]]
    assert "proposal_file" not in mapped


def test_a_limit_below_the_count_is_an_error(make: Any, record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="image 'a' has 3 proposals.*TOPK.*2"):
        make(precomputed_proposal_topk=2)(record)


@pytest.mark.parametrize(
    "bad", [[0, 0, 81, 10], [-2, 0, 9, 9], [0, np.nan, 5, 5], [5, 5, 5, 9], [0, 0, np.inf, 9]]
)
def test_invalid_proposals_name_row_and_image(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="proposal 1 of image 'x'.*80x60"):
        usable_boxes(np.array([BOXES[0], bad]), (60, 80), min_side=1, where="image 'x'")


def test_xywh_arrays_are_refused_by_shape_and_rounding_is_forgiven() -> None:
    with pytest.raises(ValueError, match=r"\(n, 4\), got \(2, 5\)"):
        usable_boxes(np.zeros((2, 5)), (60, 80), min_side=1, where="x")
    boxes = usable_boxes(np.array([[-0.004, 0, 80.004, 60]]), (60, 80), min_side=1, where="x")
    assert boxes.tolist() == [[0, 0, 80, 60]] and boxes.dtype == np.float32


def test_a_damaged_image_is_named(make: Any, record: dict[str, Any]) -> None:
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DamagedImageError, match="a.png"):
        make()(record)


def test_open_stores_stay_behind_when_a_mapper_is_sent_to_a_worker(
    make: Any, record: dict[str, Any]
) -> None:
    mapper = make()
    expected = mapper(record)["proposals"].proposal_boxes.tensor
    copy = pickle.loads(pickle.dumps(mapper))
    assert mapper._opened and not copy._opened
    assert torch.equal(copy(record)["proposals"].proposal_boxes.tensor, expected)


def test_config_and_keywords_agree(weak_cfg: Any) -> None:
    weak_cfg.DATASETS.PROPOSAL_FILES_TRAIN = ("one", "two.pkl", "one")
    mapper = WeakDatasetMapper(weak_cfg, True)
    assert mapper.min_side == 4 and mapper.proposal_topk == 100000
    assert mapper.proposal_stores == ("one",)
    weak_cfg.INPUT.CROP.ENABLED = True
    with pytest.raises(ValueError, match="INPUT.CROP.ENABLED"):
        WeakDatasetMapper(weak_cfg, True)
    weak_cfg.MODEL.LOAD_PROPOSALS = False
    with pytest.raises(ValueError, match="MODEL.LOAD_PROPOSALS"):
        WeakDatasetMapper(weak_cfg, False)


def test_the_classifier_mapper_needs_no_proposals(weak_cfg: Any, record: dict[str, Any]) -> None:
    mapped = ImageLabelMapper(weak_cfg, True)(record)
    assert mapped["image"].shape == (3, 48, 64)
    assert mapped["image_labels"].tolist() == [1, 4]
    assert "proposals" not in mapped


def test_stored_scores_follow_their_boxes(
    proposal_store: Callable[..., str], record: dict[str, Any], tmp_path: Path
) -> None:
    boxes = np.array(BOXES, dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, np.nan], dtype=np.float32)
    with ProposalStoreWriter(tmp_path / "scored") as writer:
        writer.add("a", boxes, scores=scores, image_size=(60, 80))
    options: dict[str, Any] = {
        "augmentations": [T.Resize((30, 40))],
        "image_format": "RGB",
        "precomputed_proposal_topk": 100,
        "min_side": 4,
        "objectness": True,
    }
    mapper = WeakDatasetMapper(True, proposal_stores=[str(tmp_path / "scored")], **options)
    found = mapper(record)["proposals"].objectness  # without the duplicate and the sliver
    assert found.tolist() == pytest.approx([0.9, 0.8, 0.0])
    unscored = WeakDatasetMapper(True, proposal_stores=[proposal_store({"a": BOXES})], **options)
    with pytest.raises(ValueError, match="OBJECTNESS_SCALE needs scores.*image 'a'"):
        unscored(record)


@pytest.mark.parametrize("is_train", [True, False])
def test_other_label_sets_pass_where_labels_do(
    make: Any, record: dict[str, Any], is_train: bool
) -> None:
    mapped = make(is_train=is_train)({**record, "negative_labels": [2, 3], "unknown_labels": []})
    assert ("negative_labels" in mapped) == ("unknown_labels" in mapped) == is_train
    if is_train:
        assert mapped["negative_labels"].tolist() == [2, 3]
        assert mapped["unknown_labels"].dtype == torch.int64
