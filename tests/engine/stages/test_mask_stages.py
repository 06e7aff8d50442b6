"""Masks as a stage: parts, reuse, leaks, and the road to a detector with masks on drawn scenes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import (
    ProposalStoreWriter,
    PseudoGroundTruth,
    RunManifest,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.data import build_train_loader, register_scenes, weak_records
from weaksam_d2.data.datasets.scenes import SceneSet
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.pipeline.base import PipelineSettings
from weaksam_d2.engine.pipeline.pipeline import Pipeline
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.mask_stages import (
    detection_masks_stage,
    instance_masks_stage,
    mask_figures_stage,
)
from weaksam_d2.ops import decode_rle, encode_rle

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SCENES = SceneSet("masks", train=4, val=3, scale=(0.4, 0.7))
TRAIN, VAL = "mask_scenes_train_weak", "mask_scenes_val_weak"


@pytest.fixture()
def scenes(tmp_path: Path) -> Iterator[Path]:
    """Drawn scenes with true masks, as ``TRAIN`` and ``VAL``; the folder that holds them."""
    known = set(DatasetCatalog.list())
    root = tmp_path / "scenes"
    for name in (TRAIN, VAL):
        split = name.split("_")[2]
        register_scenes(name.removesuffix("_weak"), root=root, split=split, scenes=SCENES)
    yield root
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture()
def cfg() -> Any:
    made = base_config()
    made.WEAKSAM.SAM.BACKEND = "FakeSam"
    made.DATASETS.TRAIN = (TRAIN,)
    return made


def rows_of(name: str) -> list[dict[str, Any]]:
    """A detection at every true box: the stages are given detections, whatever made them."""
    twin = MetadataCatalog.get(name).evaluation_name
    rows = []
    for record in DatasetCatalog.get(twin):
        for k, one in enumerate(record["annotations"]):
            x1, y1, x2, y2 = one["bbox"]
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"image_id": record["image_id"], "category_id": one["category_id"] + 1}
            rows.append({**row, "bbox": box, "score": 0.9 - 0.1 * k})
    return rows


def write_truth(path: Path, name: str, *, skip: int = 0) -> Path:
    """Pseudo ground truth of all images but the first ``skip``."""
    records = weak_records(name)[skip:]
    keys = {"id": "image_id", "height": "height", "width": "width"}
    images = [
        {**{k: r[v] for k, v in keys.items()}, "file_name": Path(r["file_name"]).name}
        for r in records
    ]
    wanted = {image["id"] for image in images}
    names = MetadataCatalog.get(name).thing_classes
    categories = [{"id": n + 1, "name": c} for n, c in enumerate(names)]
    info = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": "0" * 64}}
    rows = [row for row in rows_of(name) if row["image_id"] in wanted]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pseudo_gt(path, PseudoGroundTruth(images, rows, categories, info))
    return path


def test_the_file_does_not_depend_on_parts_and_says_what_was_done(
    scenes: Path, cfg: Any, tmp_path: Path
) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN, skip=1)
    whole = instance_masks_stage(cfg, TRAIN, source, Placement(tmp_path / "whole"))
    boxes = read_pseudo_gt(source).annotations
    assert whole is not None and whole.counts["images"] == 3
    assert whole.counts["annotations"] == len(boxes) and whole.counts["reused"] == 0
    place = Placement(tmp_path / "cut", part_size=1, num_shards=2)
    assert instance_masks_stage(cfg, TRAIN, source, place) is None  # the other shard owes a part
    other = Placement(tmp_path / "cut", part_size=1, num_shards=2, shard=1)
    assert instance_masks_stage(cfg, TRAIN, source, other) is not None
    files = [tmp_path / name / "pseudo_gt.json" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "cut.parts").exists()
    truth = read_pseudo_gt(files[0])
    assert truth.info["weaksam"]["masks"]["multimask"] == "single"
    for one, box in zip(truth.annotations, boxes, strict=True):
        assert one["bbox"] == box["bbox"] and one["score"] == box["score"]
        # The stand-in gives the filled box, whose corners are whole pixels here.
        assert one["area"] == box["bbox"][2] * box["bbox"][3]


def test_a_second_run_does_nothing_and_another_setting_is_refused(
    scenes: Path, cfg: Any, tmp_path: Path
) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN)
    place = Placement(tmp_path / "out")
    first = instance_masks_stage(cfg, TRAIN, source, place)
    again = instance_masks_stage(cfg, TRAIN, source, place)
    assert first is not None and again is not None and first.created == again.created
    cfg.WEAKSAM.INSTANCE_MASKS.CLIP = True
    with pytest.raises(ValueError, match=r"INSTANCE_MASKS\.CLIP was False and is True"):
        instance_masks_stage(cfg, TRAIN, source, place)


def test_boxes_of_another_data_set_are_refused(scenes: Path, cfg: Any, tmp_path: Path) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN)  # four images; VAL has three
    with pytest.raises(ValueError, match="has 1 images that data set"):
        instance_masks_stage(cfg, VAL, source, Placement(tmp_path / "out"))


def test_stored_masks_are_used_as_far_as_they_go(scenes: Path, cfg: Any, tmp_path: Path) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN)
    with pytest.raises(ValueError, match="give both or neither"):
        out = Placement(tmp_path / "out")
        instance_masks_stage(cfg, TRAIN, source, out, proposals=tmp_path)
    rows = read_pseudo_gt(source).annotations
    with ProposalStoreWriter(tmp_path / "store") as writer:
        for record in weak_records(TRAIN):
            own = [row["bbox"] for row in rows if row["image_id"] == record["image_id"]][:1]
            size = (record["height"], record["width"])
            masks = np.zeros((len(own), *size), bool)
            boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in own], np.float32)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
                mask[y1:y2, x1] = mask[y1, x1:x2] = True  # an angle
            codes = encode_rle(masks)
            writer.add(record["image_id"], boxes, masks=codes, image_size=size)
    cfg.WEAKSAM.INSTANCE_MASKS.REUSE_STORED = True
    place = Placement(tmp_path / "out")
    made = instance_masks_stage(cfg, TRAIN, source, place, proposals=tmp_path / "store")
    assert made is not None and made.counts["reused"] == 4
    assert {row["name"] for row in made.inputs} == {"pseudo_gt", "proposals"}
    first = read_pseudo_gt(tmp_path / "out" / "pseudo_gt.json").annotations[0]
    assert first["area"] == sum(first["bbox"][2:]) - 1


def test_true_masks_and_boxes_change_nothing_on_the_weak_side(
    scenes: Path, cfg: Any, tmp_path: Path
) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN)
    instance_masks_stage(cfg, TRAIN, source, Placement(tmp_path / "before"))
    file = scenes / "masks_train" / "annotations.json"
    data = json.loads(file.read_text())
    kinds = [row["category_id"] for row in data["annotations"]]
    keys = ("segmentation", "full_mask", "head_mask", "area")
    shuffled = [{k: row[k] for k in keys} for row in data["annotations"]]
    random.Random(1).shuffle(shuffled)
    for row, masks in zip(data["annotations"], shuffled, strict=True):
        row.update(masks, bbox=[0, 0, 1, 1])
    assert kinds == [row["category_id"] for row in data["annotations"]]
    file.write_text(json.dumps(data))
    assert DatasetCatalog.get("mask_scenes_train_eval")[0]["annotations"][0]["bbox"] == [0, 0, 1, 1]
    instance_masks_stage(cfg, TRAIN, source, Placement(tmp_path / "after"))
    made = [tmp_path / name / "pseudo_gt.json" for name in ("before", "after")]
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_detector_learns_from_the_stored_masks(scenes: Path, cfg: Any, tmp_path: Path) -> None:
    source = write_truth(tmp_path / "pgt.json", TRAIN)
    instance_masks_stage(cfg, TRAIN, source, Placement(tmp_path / "out"))
    cfg.merge_from_file(str(CONFIGS / "quick_schedules/mask_rcnn_lite0.yaml"))
    cfg.DATASETS.TRAIN = (TRAIN,)
    file = tmp_path / "out" / "pseudo_gt.json"
    cfg.DATASETS.PSEUDO_GT_TRAIN = (str(file),)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (0,), "none"  # as they are
    batch = next(iter(build_train_loader(cfg)))
    rows = read_pseudo_gt(file).annotations
    for one in batch:
        own = [row for row in rows if row["image_id"] == one["image_id"]]
        codes = [row["segmentation"]["counts"].encode() for row in own]
        expected = decode_rle(codes, (one["height"], one["width"]))
        assert np.array_equal(one["instances"].gt_masks.tensor.numpy(), expected)


def test_detections_get_masks_and_figures(scenes: Path, cfg: Any, tmp_path: Path) -> None:
    rows = rows_of(VAL)
    write_detections(tmp_path / "detections.json", rows)
    for name, size in (("whole", 0), ("cut", 1)):
        place = Placement(tmp_path / name, part_size=size)
        detection_masks_stage(cfg, VAL, tmp_path / "detections.json", place)
    files = [tmp_path / name / "detections.json" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    made = read_detections(files[0])
    assert [row["bbox"] for row in made] == [row["bbox"] for row in rows]
    mask_figures_stage(cfg, VAL, files[0], Placement(tmp_path / "figures"))
    results = json.loads((tmp_path / "figures" / "results.json").read_text())
    figures = {key.removeprefix(f"{VAL}/segm/"): value for key, value in results.items()}
    # Filled true boxes: every object is found, at the IoU that it has with its box.
    assert figures["images"] == 3.0 and figures["AP25"] == pytest.approx(100.0)
    assert 0 < figures["AP"] < figures["AP50"] <= figures["AP25"]
    (tmp_path / "left_out.txt").write_text(f"{rows[0]['image_id']}\n")
    cfg.TEST.EXCLUDE_IDS = str(tmp_path / "left_out.txt")
    mask_figures_stage(cfg, VAL, files[0], Placement(tmp_path / "fewer"))
    fewer = json.loads((tmp_path / "fewer" / "results.json").read_text())
    assert fewer[f"{VAL}/segm/images"] == 2.0
    bare = Placement(tmp_path / "bare")
    with pytest.raises(ValueError, match="detections have no masks"):
        mask_figures_stage(cfg, VAL, tmp_path / "detections.json", bare)


def test_the_stage_runs_from_pseudo_boxes_to_mask_figures(
    scenes: Path, mobile_sam: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    write_truth(run / "pseudo_gt" / "adaptive" / "pseudo_gt.json", TRAIN)
    found = run / "retrain" / "inference" / VAL / "detections.json"
    found.parent.mkdir(parents=True)
    write_detections(found, rows_of(VAL))
    config = tmp_path / "masks.yaml"
    quick = CONFIGS / "quick_schedules" / "mask_rcnn_lite0.yaml"
    base = CONFIGS / "pipelines" / "scenes_quick.yaml"
    config.write_text(
        f"_BASE_: {base}\nDATASETS:\n  TRAIN: [{TRAIN}]\n  TEST: [{VAL}]\n"
        f"PIPELINE:\n  MASKS_CONFIG: {quick}\n"
    )
    settings = PipelineSettings(config, run, stages=("masks", "report"), stage_opts={"masks": []})
    settings.stage_opts["masks"] = ["SOLVER.MAX_ITER", "2"]
    metrics = Pipeline(settings).run()
    masks = metrics["masks"]
    assert {"AP", "AP25", "AP50", "AP70", "AP75", "AP50_low", "AP50_high"} <= set(masks)
    # SAM on boxes that are right outlines the drawn objects; two steps of training do not.
    assert masks["AP50_box_to_mask"] > 60 > masks["AP50"]
    assert "truth" not in masks and metrics["seconds"]["masks"] > 0
    made = read_pseudo_gt(run / "masks" / "instance_masks" / "pseudo_gt.json")
    assert all("segmentation" in row for row in made.annotations)
    detected = read_detections(run / "masks" / "detector" / "inference" / VAL / "detections.json")
    assert all("segmentation" in row for row in detected)
    folders = ("instance_masks", "detector", "box_to_mask", "box_to_mask_figures")
    manifests = {name: RunManifest.read(run / "masks" / name) for name in folders}
    assert {one.status for one in manifests.values()} == {"complete"}
    page = (run / "report.html").read_text()
    assert "Mask AP50" in page and page.count("SAM on detected boxes") == 2 * 3  # image and caption
    before = {name: one.created for name, one in manifests.items()}
    again = Pipeline(settings).run()
    assert again["masks"] == masks
    after = {name: RunManifest.read(run / "masks" / name).created for name in folders}
    assert after == before


def test_training_images_may_not_be_tested_on(scenes: Path, tmp_path: Path) -> None:
    config = tmp_path / "masks.yaml"
    base = CONFIGS / "pipelines" / "scenes_quick.yaml"
    config.write_text(
        f"_BASE_: {base}\nDATASETS:\n  TRAIN: [{TRAIN}]\n  TEST: ['{TRAIN}@2']\n"
        "PIPELINE:\n  MASKS_CONFIG: any.yaml\n"
    )
    with pytest.raises(ValueError, match=r"2 images are in both mask_scenes_train_weak and"):
        Pipeline(PipelineSettings(config, tmp_path / "run", stages=("masks",))).run()
