"""Test-time augmentation where detectors are evaluated: loader, detector and figures together."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from weaksam_d2.artifacts import ProposalStoreWriter, read_detections
from weaksam_d2.data import build_test_loader
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.training.inference_views import with_test_views
from weaksam_d2.engine.training.trainer import WeakSAMTrainer, flat_results
from weaksam_d2.wsod import WSODRCNNWithTTA

REPO = Path(__file__).resolve().parents[3]
WEAK, TWIN = "views_test_weak", "views_test_eval"
SIZES = {"a": (40, 60), "b": (50, 44), "c": (30, 30)}  # height, width
PROPOSALS = [[0, 0, 30, 30], [0, 0, 30, 30], [5, 5, 25, 28], [1, 1, 3, 30], [10, 0, 30, 20]]


@pytest.fixture
def cfg(tmp_path: Path) -> Iterator[Any]:
    """A weakly supervised detector, three images, their proposals and their boxes."""
    records = []
    with ProposalStoreWriter(tmp_path / "store") as writer:
        for seed, (name, (height, width)) in enumerate(SIZES.items()):
            pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
            path = tmp_path / f"{name}.png"
            Image.fromarray(pixels).save(path)
            records.append(
                {"image_id": name, "file_name": str(path), "height": height, "width": width}
            )
            writer.add(name, np.array(PROPOSALS, np.float32), image_size=(height, width))
    truth = {"bbox": PROPOSALS[0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    DatasetCatalog.register(WEAK, lambda: [{**r, "image_labels": [0]} for r in records])
    DatasetCatalog.register(TWIN, lambda: [{**r, "annotations": [dict(truth)]} for r in records])
    for name in (WEAK, TWIN):
        MetadataCatalog.get(name).set(
            thing_classes=["cat", "dog"], evaluator_type="voc", year=2007, evaluation_name=TWIN
        )
    yield detector_config(tmp_path)
    for name in (WEAK, TWIN):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def detector_config(folder: Path) -> Any:
    cfg = base_config()
    cfg.merge_from_file(str(REPO / "configs/quick_schedules/oicr_lite0.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.WEIGHTS = "cpu", "", ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.WSOD.FC_DIM, cfg.MODEL.WSOD.MIN_SIDE = 16, 4
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (WEAK,), (WEAK,)
    cfg.DATASETS.PROPOSAL_FILES_TEST = (str(folder / "store"),)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 48, 1000
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (48,), 1000, False
    cfg.OUTPUT_DIR = str(folder / "out")
    return cfg


def found_by(cfg: Any, model: nn.Module) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    results = WeakSAMTrainer.test(cfg, model)
    rows = read_detections(Path(cfg.OUTPUT_DIR) / "inference" / WEAK / "detections.json")
    return results[WEAK], sorted(rows, key=lambda row: (row["image_id"], row["category_id"]))


def test_loader_gives_the_original_image_and_proposals_filtered_once(cfg: Any) -> None:
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.MIN_SIZES = (16, 200)
    for (batch,), size in zip(build_test_loader(cfg, WEAK), SIZES.values(), strict=True):
        assert tuple(batch["image"].shape[1:]) == size == batch["proposals"].image_size
        # Neither the duplicate nor the box 2 pixels wide, which would be 13 in the large view.
        kept = [PROPOSALS[row] for row in (0, 2, 4)]
        assert batch["proposals"].proposal_boxes.tensor.tolist() == kept
    cfg.TEST.AUG.ENABLED = False
    (batch,) = next(iter(build_test_loader(cfg, WEAK)))
    wanted = ResizeShortestEdge.get_output_shape(*SIZES["a"], 48, 1000)
    assert tuple(batch["image"].shape[1:]) == wanted


def test_one_view_changes_no_figure_and_several_change_the_scores(
    cfg: Any, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = build_model(cfg)
    caplog.set_level(logging.INFO, logger="weaksam_d2.engine.training.trainer")
    logging.getLogger("weaksam_d2").propagate = True
    plain, rows = found_by(cfg, model)
    assert model.training, "the mode of the model comes back"
    assert "cat" in caplog.text and "CorLoc" in caplog.text
    cfg.TEST.AUG.ENABLED = True
    one_view, same = found_by(cfg, model)
    assert model.training
    assert flat_results({WEAK: one_view}) == pytest.approx(flat_results({WEAK: plain}))
    assert len(rows) == len(same) > 3
    for row, other in zip(rows, same, strict=True):
        assert other["bbox"] == pytest.approx(row["bbox"], abs=1e-3)
        assert other["score"] == pytest.approx(row["score"], rel=1e-4)
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (48, 64, 96), True
    _, several = found_by(cfg, model)
    assert [r["score"] for r in several] != pytest.approx([r["score"] for r in same], rel=1e-4)


def test_detections_that_know_the_tags_get_no_ap_with_views_either(cfg: Any) -> None:
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP = True, True
    cfg.MODEL.WSOD.TEST_LABEL_FILTER = True
    figures, rows = found_by(cfg, build_model(cfg))
    assert set(figures) == {"corloc"}
    assert {row["category_id"] for row in rows} == {1}


def test_excluded_images_are_counted_in_the_results(cfg: Any, tmp_path: Path) -> None:
    (tmp_path / "overlap.txt").write_text("b\n")
    cfg.TEST.EXCLUDE_IDS = str(tmp_path / "overlap.txt")
    figures = flat_results(WeakSAMTrainer.test(cfg, build_model(cfg)))
    assert figures[f"{WEAK}/images/evaluated"] == 2
    assert figures[f"{WEAK}/images/excluded"] == 1


def test_every_detector_gets_its_own_augmentation(cfg: Any) -> None:
    model = build_model(cfg).eval()
    assert with_test_views(cfg, model) is model
    cfg.TEST.AUG.ENABLED = True
    views = with_test_views(cfg, model)
    assert isinstance(views, WSODRCNNWithTTA) and not views.training
    stock = base_config()
    stock.merge_from_file(str(REPO / "configs/quick_schedules/faster_rcnn_lite0_roi_drop.yaml"))
    stock.MODEL.DEVICE, stock.MODEL.TIMM.WEIGHTS, stock.TEST.AUG.ENABLED = "cpu", "", True
    retrained = with_test_views(stock, build_model(stock).eval())
    assert isinstance(retrained, GeneralizedRCNNWithTTA) and not retrained.training
    with pytest.raises(ValueError, match="a Linear has no test-time augmentation"):
        with_test_views(cfg, nn.Linear(1, 1))


def test_a_model_with_views_of_its_own_is_asked_for_them(cfg: Any) -> None:
    class Own(nn.Module):
        def with_test_views(self, cfg: Any) -> nn.Module:
            assert cfg.TEST.AUG.ENABLED
            return nn.Identity()

    model = Own().eval()
    cfg.TEST.AUG.ENABLED = False
    assert with_test_views(cfg, model) is model
    cfg.TEST.AUG.ENABLED = True
    views = with_test_views(cfg, model)
    assert isinstance(views, nn.Identity) and not views.training
