"""Mixed supervision on the side of the data: which images have boxes, and how they come."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weaksam_d2.data import build_train_loader, describe_boxes, prepare_datasets
from weaksam_d2.data.box_supervision import boxed_count, boxed_records

IDS = ["000001", "000002", "000003", "000004"]


@pytest.fixture()
def cfg(weak_cfg: Any, voc_root: Path, proposal_store: Callable[..., str]) -> Any:
    store = proposal_store({image_id: [[10, 10, 50, 40], [1, 5, 30, 40]] for image_id in IDS})
    weak_cfg.DATASETS.VOC = (("pets", str(voc_root), "all", 2007, ("cat", "dog")),)
    weak_cfg.DATASETS.TRAIN = ("pets_weak",)
    weak_cfg.DATASETS.BOXES_TRAIN = ("pets_eval@2",)
    weak_cfg.DATASETS.PROPOSAL_FILES_TRAIN = (store,)
    weak_cfg.DATALOADER.BOXES_FRACTION = 0.25
    weak_cfg.SOLVER.IMS_PER_BATCH = 4
    prepare_datasets(weak_cfg)
    return weak_cfg


@pytest.mark.parametrize(
    ("fraction", "batch", "count"),
    [(0.25, 2, 1), (0.25, 4, 1), (0.25, 8, 2), (0.01, 8, 1), (0.99, 8, 7), (0.375, 4, 2)],
)
def test_the_share_is_rounded_and_each_kind_is_in_a_batch(
    cfg: Any, fraction: float, batch: int, count: int
) -> None:
    cfg.DATALOADER.BOXES_FRACTION, cfg.SOLVER.IMS_PER_BATCH = fraction, batch
    assert boxed_count(cfg) == count


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.BOXES_TRAIN", (), "or neither"),
        ("DATALOADER.BOXES_FRACTION", 0.0, "or neither"),
        ("DATALOADER.BOXES_FRACTION", 1.0, r"share in \(0, 1\)"),
        ("INPUT.MAPPER_NAME", "", "WeakDatasetMapper"),
        ("SOLVER.IMS_PER_BATCH", 1, "set it to 2 or more"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    cfg: Any, key: str, value: Any, message: str
) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        boxed_count(cfg)


def test_difficult_objects_are_no_targets_and_every_set_says_what_is_wrong(cfg: Any) -> None:
    cfg.DATASETS.BOXES_TRAIN = ("pets_eval",)
    records = boxed_records(cfg)
    assert [r["image_labels"] for r in records] == [[0], [1], [], [1]]
    assert [len(r["annotations"]) for r in records] == [1, 1, 0, 1]
    assert {r["proposal_file"] for r in records} == set(cfg.DATASETS.PROPOSAL_FILES_TRAIN)
    cfg.DATASETS.BOXES_TRAIN = ("pets_weak",)
    with pytest.raises(ValueError, match="'pets_weak' has image labels and no boxes.*'pets_eval'"):
        boxed_records(cfg)


def test_proposals_come_from_files_of_their_own_or_from_those_of_the_tagged_sets(
    cfg: Any, proposal_store: Callable[..., str]
) -> None:
    own = proposal_store({image_id: [[0, 0, 30, 30]] for image_id in IDS}, "own")
    (shared,) = cfg.DATASETS.PROPOSAL_FILES_TRAIN
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (shared, own)
    assert {r["proposal_file"] for r in boxed_records(cfg)} == {own}
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (proposal_store({"000001": [[0, 0, 9, 9]]}, "short"),)
    with pytest.raises(KeyError, match="'000003' is in none of the proposal stores"):
        boxed_records(cfg)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (shared, own, own)
    with pytest.raises(ValueError, match="may have one for each of DATASETS.BOXES_TRAIN.*got 3"):
        build_train_loader(cfg)


def test_a_batch_ends_with_a_fully_labelled_image(cfg: Any) -> None:
    cfg.INPUT.RANDOM_FLIP = "none"
    for batch in islice(build_train_loader(cfg), 4):
        assert ["full_instances" in item for item in batch] == [False, False, False, True]
        full = batch[3]
        assert not {"annotations", "instances", "true_objects"} & set(full)
        assert full["image_id"] in ("000001", "000003")
        assert set(full["full_instances"].get_fields()) == {"gt_boxes", "gt_classes"}
        assert set(full["image_labels"].tolist()) == set(full["full_instances"].gt_classes.tolist())


def test_boxes_are_flipped_and_scaled_as_the_proposals_are(
    cfg: Any, proposal_store: Callable[..., str]
) -> None:
    """The proposal is the true box of the first image ([0, 0, 10, 20]: VOC counts from 1)."""
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (
        proposal_store({image_id: [[0, 0, 10, 20]] for image_id in IDS}, "exact"),
    )
    cfg.DATASETS.BOXES_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = ("pets_eval@1",), (30, 90)
    prepare_datasets(cfg)
    seen = set()
    for batch in islice(build_train_loader(cfg), 12):
        found = batch[3]["full_instances"].gt_boxes.tensor
        assert torch.allclose(found, batch[3]["proposals"].proposal_boxes.tensor, atol=1e-4)
        seen.add(tuple(np.round(found[0].tolist(), 3)))
    assert len(seen) == 4  # two sizes, mirrored or not


def test_the_label_of_every_figure_says_how_many_images_have_boxes(cfg: Any) -> None:
    found = describe_boxes(cfg)
    assert found == {
        "label": "50% boxes",
        "count": 2,
        "images": 4,
        "datasets": ["pets_eval@2"],
        "ids": ["000001", "000003"],
    }


def test_exact_batches_of_two_kinds_are_the_same_after_a_skip(cfg: Any) -> None:
    from weaksam_d2.data import skip_iterations

    cfg.SOLVER.EXACT_RESUME = True
    whole = list(islice(build_train_loader(cfg), 6))
    loader = build_train_loader(cfg)
    skip_iterations(cfg, loader, 4)
    for expected, found in zip(whole[4:], islice(loader, 2), strict=True):
        assert [item["image_id"] for item in expected] == [item["image_id"] for item in found]
        assert all(
            torch.equal(a["image"], b["image"]) for a, b in zip(expected, found, strict=True)
        )
