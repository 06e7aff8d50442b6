"""Loaders: which mapper, which records, in which order."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data import (
    build_test_loader,
    build_train_loader,
    prepare_datasets,
    register_pseudo_gt,
    register_subset,
    skip_iterations,
    weak_records,
)

IDS = ["000001", "000002", "000003", "000004"]
BOX = [10, 10, 50, 40]


@pytest.fixture()
def cfg(weak_cfg: Any, voc_root: Path, proposal_store: Callable[..., str]) -> Any:
    store = proposal_store({image_id: [BOX, [0, 0, 30 + n, 30]] for n, image_id in enumerate(IDS)})
    weak_cfg.DATASETS.VOC = (("pets", str(voc_root), "all", 2007, ("cat", "dog")),)
    weak_cfg.DATASETS.TRAIN = weak_cfg.DATASETS.TEST = ("pets_weak",)
    weak_cfg.DATASETS.PROPOSAL_FILES_TRAIN = weak_cfg.DATASETS.PROPOSAL_FILES_TEST = (store,)
    prepare_datasets(weak_cfg)
    return weak_cfg


@pytest.fixture()
def supervised(cfg: Any) -> Any:
    cfg.INPUT.MAPPER_NAME = ""
    cfg.MODEL.LOAD_PROPOSALS = False
    return cfg


def _ids(loader: Any, batches: int) -> list[str]:
    return [r["image_id"] for batch in itertools.islice(loader, batches) for r in batch]


def test_the_order_is_a_function_of_the_seed(cfg: Any) -> None:
    first = _ids(build_train_loader(cfg), 8)
    assert _ids(build_train_loader(cfg), 8) == first
    assert len(first) == 16 and set(first) == set(IDS)
    cfg.SEED = 4
    assert _ids(build_train_loader(cfg), 8) != first


def _exact(cfg: Any, workers: int, skipped: int, batches: int) -> list[Any]:
    cfg.SOLVER.EXACT_RESUME, cfg.DATALOADER.NUM_WORKERS = True, workers
    loader = build_train_loader(cfg)
    skip_iterations(cfg, loader, skipped)
    return [item for batch in itertools.islice(loader, batches) for item in batch]


@pytest.mark.parametrize(("workers", "skipped"), [(2, 0), (0, 3), (2, 3)])
def test_exact_samples_depend_neither_on_workers_nor_on_where_one_begins(
    cfg: Any, workers: int, skipped: int
) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 40, 48, 56)
    torch.manual_seed(0)
    expected = _exact(cfg, 0, 0, 6)[2 * skipped :]
    drawn = torch.rand(1)
    found = _exact(cfg, workers, skipped, 6 - skipped)
    assert [r["image_id"] for r in found] == [r["image_id"] for r in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["image"], other["image"])
        boxes = (r["proposals"].proposal_boxes.tensor for r in (one, other))
        assert torch.equal(*boxes)
    assert len({item["image"].shape for item in expected}) > 1
    torch.manual_seed(0)
    assert torch.rand(1) == drawn  # samples are drawn aside from the model's numbers


def test_the_exact_mode_needs_a_seed_and_a_seeded_order(supervised: Any) -> None:
    supervised.SOLVER.EXACT_RESUME, supervised.SEED = True, -1
    supervised.DATASETS.TRAIN = ("pets_eval",)
    with pytest.raises(ValueError, match="EXACT_RESUME draws every sample from SEED"):
        build_train_loader(supervised)
    supervised.SEED = 3
    supervised.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    with pytest.raises(ValueError, match="'RandomSubsetTrainingSampler' does not go with"):
        build_train_loader(supervised)


@pytest.mark.parametrize("name", ["TagRepeatFactorTrainingSampler", "TagBalancedTrainingSampler"])
def test_weak_sets_are_sampled_by_their_tags(cfg: Any, name: str) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = name
    assert set(_ids(build_train_loader(cfg), 12)) == set(IDS)


def test_a_weak_batch_holds_no_ground_truth_geometry(cfg: Any) -> None:
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    for item in batch:
        assert not {"annotations", "instances", "sem_seg", "proposal_file"} & set(item)
        assert set(item["proposals"].get_fields()) == {"proposal_boxes", "objectness_logits"}


@pytest.mark.slow
def test_spawned_workers_open_their_own_stores(cfg: Any) -> None:
    here = _ids(build_train_loader(cfg), 2)
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_train_loader(cfg, multiprocessing_context="spawn")
    assert _ids(loader, 2) == here


def test_the_test_loader_passes_once_in_order(cfg: Any) -> None:
    loader = build_test_loader(cfg, "pets_weak")
    items = [item for batch in loader for item in batch]
    assert [item["image_id"] for item in items] == IDS
    assert all(len(item["proposals"]) == 2 for item in items)
    assert all("image_labels" not in item for item in items)
    cfg.MODEL.WSOD.TEST_LABEL_FILTER = True
    labels = [item["image_labels"].tolist() for (item,) in build_test_loader(cfg, "pets_weak")]
    assert labels == [[0], [1], [], [1]]
    with pytest.raises(ValueError, match="'pets_eval' is not in DATASETS.TEST|not a weak"):
        build_test_loader(cfg, "pets_eval")


def test_missing_proposals_and_files_are_named(
    cfg: Any, proposal_store: Callable[..., str]
) -> None:
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (proposal_store({"000001": [BOX]}, "short"),)
    with pytest.raises(KeyError, match="3 images are not in.*short.*000002"):
        build_train_loader(cfg)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = ()
    with pytest.raises(ValueError, match="got 0 files"):
        build_train_loader(cfg)


def test_pickled_proposals_are_sorted_by_score(cfg: Any, tmp_path: Path) -> None:
    boxes = np.array([BOX, [0, 0, 33, 44]], dtype=np.float32)
    data = {
        "ids": IDS,
        "boxes": [boxes] * 4,
        "objectness_logits": [np.array([0.1, 0.9], dtype=np.float32)] * 4,
    }
    path = tmp_path / "boxes.pkl"
    path.write_bytes(pickle.dumps(data))
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(path),)
    cfg.INPUT.MIN_SIZE_TEST = 0
    ((item,), *_) = build_test_loader(cfg, "pets_weak")
    assert item["proposals"].proposal_boxes.tensor.tolist() == [[0, 0, 33, 44], BOX]
    path.write_bytes(pickle.dumps({**data, "ids": ["x"] * 4}))
    with pytest.raises(KeyError, match="boxes.pkl.*000001"):
        build_test_loader(cfg, "pets_weak")


def test_a_weak_set_under_the_stock_mapper_names_the_remedies(supervised: Any) -> None:
    with pytest.raises(ValueError, match="'pets_weak'.*'pets_eval'.*PSEUDO_GT_TRAIN"):
        build_train_loader(supervised)


def test_an_annotated_set_under_a_weak_mapper_is_refused(cfg: Any) -> None:
    cfg.DATASETS.TRAIN = ("pets_eval",)
    with pytest.raises(ValueError, match="'pets_eval' has annotations"):
        build_train_loader(cfg)


def test_the_twin_trains_with_the_stock_mapper_and_stored_proposals(supervised: Any) -> None:
    supervised.DATASETS.TRAIN = ("pets_eval",)
    supervised.MODEL.LOAD_PROPOSALS = True
    batch = next(iter(build_train_loader(supervised)))
    assert all(len(item["proposals"]) == 2 and item["instances"].has("gt_boxes") for item in batch)
    assert batch[0]["proposals"].objectness_logits.tolist() == [0, -1]


def test_stock_test_batches_hold_no_labels(supervised: Any) -> None:
    items = [item for batch in build_test_loader(supervised, "pets_weak") for item in batch]
    assert [item["image_id"] for item in items] == IDS
    assert all("image_labels" not in item for item in items)


def _pseudo_gt(path: Path, **changes: Any) -> str:
    # Dataset ids in another order than the contiguous classes.
    data: dict[str, Any] = {
        "info": {
            "weaksam": {
                "format": "weaksam_d2.pseudo_gt/1", "rule": "top1", "parameters": {},
                "detections_sha256": "",
            }
        },
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 60, "width": 80} for i in IDS[:3]
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {
                "id": 1, "image_id": "000002", "category_id": 1, "bbox": [1, 2, 30, 40],
                "area": 1200, "iscrowd": 0, "score": 0.5, "score_norm": 1.0, "source": "wsod",
            },
        ],
    }  # fmt: skip
    path.write_text(json.dumps({**data, **changes}))
    return str(path)


def test_pseudo_ground_truth_replaces_the_training_set(supervised: Any, tmp_path: Path) -> None:
    supervised.DATASETS.PSEUDO_GT_TRAIN = (_pseudo_gt(tmp_path / "p.json"),)
    supervised.SOLVER.IMS_PER_BATCH = 1
    supervised.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    supervised.INPUT.MIN_SIZE_TRAIN = (60,)
    supervised.INPUT.RANDOM_FLIP = "none"
    (item,) = next(iter(build_train_loader(supervised)))
    assert item["instances"].gt_boxes.tensor.tolist() == [[1, 2, 31, 42]]
    assert item["instances"].gt_classes.tolist() == [1]  # dog
    (name,) = (n for n in DatasetCatalog.list() if n.startswith("pets_weak_pseudo_gt_"))
    assert MetadataCatalog.get(name).evaluation_name == "pets_eval"
    assert len(DatasetCatalog.get(name)) == 3  # the image that the file leaves out is not used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 1, "name": "cow"}]}, r"\['cow'\].*another data set"),
        (
            {"images": [{"id": "zzz", "file_name": "z", "height": 1, "width": 1}]},
            r"1 images.*'zzz'",
        ),
    ],
)
def test_pseudo_ground_truth_of_another_data_set_is_refused(
    supervised: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = _pseudo_gt(tmp_path / "p.json", annotations=[], **changes)
    supervised.DATASETS.PSEUDO_GT_TRAIN = (path,)
    with pytest.raises(ValueError, match=message):
        build_train_loader(supervised)


def test_pseudo_ground_truth_without_a_box_trains_nothing(supervised: Any, tmp_path: Path) -> None:
    path = _pseudo_gt(tmp_path / "p.json", annotations=[])
    supervised.DATASETS.PSEUDO_GT_TRAIN = (path,)
    supervised.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    with pytest.raises(ValueError, match=r"nothing to train on in \['pets_weak_pseudo_gt_\w+'\]"):
        build_train_loader(supervised)


def test_pseudo_ground_truth_stands_alone_too(tmp_path: Path, voc_root: Path) -> None:
    register_pseudo_gt(
        "pseudo", json_file=_pseudo_gt(tmp_path / "p.json"), image_root=voc_root / "JPEGImages"
    )
    records = DatasetCatalog.get("pseudo")
    assert MetadataCatalog.get("pseudo").thing_classes == ["dog", "cat"]
    assert [len(r["annotations"]) for r in records] == [0, 1, 0]
    assert records[1]["annotations"][0]["category_id"] == 0


def test_weak_mappers_refuse_pseudo_ground_truth_and_annotation_samplers(
    cfg: Any, tmp_path: Path
) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(ValueError, match="SAMPLER_TRAIN"):
        build_train_loader(cfg)
    cfg.DATASETS.PSEUDO_GT_TRAIN = (str(tmp_path / "p.json"),)
    with pytest.raises(ValueError, match="PSEUDO_GT_TRAIN"):
        build_train_loader(cfg)


def test_subsets_are_evenly_spaced_and_twins_agree(cfg: Any) -> None:
    cfg.DATASETS.TRAIN = ("pets_weak@2",)
    prepare_datasets(cfg)
    assert [r["image_id"] for r in weak_records("pets_weak@2")] == ["000001", "000003"]
    twin = MetadataCatalog.get("pets_weak@2").evaluation_name
    assert twin == "pets_eval@2"
    assert [r["image_id"] for r in DatasetCatalog.get(twin)] == ["000001", "000003"]
    register_subset("pets_weak@9")
    with pytest.raises(ValueError, match="9 images, its base has 4"):
        weak_records("pets_weak@9")
    with pytest.raises(ValueError, match="expected a registered name"):
        register_subset("pets_weak@some")
    with pytest.raises(KeyError, match="'none_weak'"):
        register_subset("none_weak@2")


def test_tagged_folders_and_modules_come_from_the_config(
    cfg: Any, tmp_path: Path, voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tags.csv").write_text("000001.jpg,duck\n000002.jpg,swan\n")
    (tmp_path / "my_birds_of_test.py").write_text(
        "from detectron2.data import DatasetCatalog\n"
        "DatasetCatalog.register('module_birds', lambda: [])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg.DATASETS.REGISTER = ("my_birds_of_test",)
    cfg.DATASETS.TAGGED = (("birds", str(voc_root / "JPEGImages"), str(tmp_path / "tags.csv")),)
    prepare_datasets(cfg)
    prepare_datasets(cfg)
    assert [r["image_labels"] for r in weak_records("birds")] == [[0], [1]]
    assert "module_birds" in DatasetCatalog.list()
    cfg.DATASETS.TAGGED = ("birds", "x", "y")
    with pytest.raises(ValueError, match="DATASETS.TAGGED holds 'birds'"):
        prepare_datasets(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "holds 'annotations'"),
        ({"sem_seg_file_name": "x"}, "holds 'sem_seg_file_name'"),
        ({"image_labels": [2]}, r"holds 2; expected 0 … 1"),
        ({"negative_labels": [1]}, "class 1 is in image_labels and in negative_labels"),
    ],
)
def test_records_of_users_are_checked(change: dict[str, Any], message: str) -> None:
    record = {"file_name": "x", "image_id": 7, "height": 1, "width": 1, "image_labels": [1]}
    DatasetCatalog.register("users_weak", lambda: [{**record, **change}])
    MetadataCatalog.get("users_weak").set(thing_classes=["a", "b"], evaluator_type="none")
    with pytest.raises(ValueError, match=f"image '7' of 'users_weak'.*{message}"):
        weak_records("users_weak")


def test_integer_ids_become_strings_and_repeated_ones_are_refused() -> None:
    records = [{"file_name": "x", "image_id": 7, "height": 1, "width": 1, "image_labels": []}]
    DatasetCatalog.register("ids_weak", lambda: records)
    MetadataCatalog.get("ids_weak").set(thing_classes=["a"], evaluator_type="none")
    assert weak_records("ids_weak")[0]["image_id"] == "7"
    records.append({**records[0], "image_id": "7"})
    with pytest.raises(ValueError, match="occurs twice"):
        weak_records("ids_weak")
    with pytest.raises(KeyError, match="'nothing' is not registered.*--register"):
        weak_records("nothing")
