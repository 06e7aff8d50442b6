"""Weak supervision is sacred: no weak loss, map, proposal or pseudo label sees a true box."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import (
    build_train_loader,
    register_coco_weak,
    register_tagged_folder,
    register_voc_evaluation,
    register_voc_weak,
    weak_records,
)
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.training.optimizer import build_optimizer

CLASSES = ("cat", "dog")
SIZE = (72, 96)  # height, width
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write_voc(root: Path) -> None:
    """Six drawn images in VOC layout with one or two objects each."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{i:06d}.jpg")
        objects = "".join(
            f"<object><name>{CLASSES[(i + k) % 2]}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{5 + 8 * k}</xmin><ymin>{7 + k}</ymin><xmax>{40 + 9 * k}</xmax>"
            f"<ymax>{50 + k}</ymax></bndbox></object>"
            for k in range(1 + i % 2)
        )
        (root / "Annotations" / f"{i:06d}.xml").write_text(
            f"<annotation><size><width>{SIZE[1]}</width><height>{SIZE[0]}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{i:06d}\n" for i in range(6)))


def poison_voc(root: Path) -> None:
    """Replace every true box by another one; names, images and lists stay."""
    shuffle = random.Random(1)
    for path in (root / "Annotations").glob("*.xml"):
        text = path.read_text()
        for key in CORNERS:
            low, high = (1, 20) if key.endswith("min") else (21, 70)
            text = re.sub(
                f"<{key}>\\d+</{key}>",
                lambda _, k=key, a=low, b=high: f"<{k}>{shuffle.randint(a, b)}</{k}>",
                text,
            )
        path.write_text(text)


def write_coco(root: Path) -> None:
    """The same images with COCO annotations, masks included."""
    write_voc(root)
    boxes = [[5, 7, 35, 43], [13, 8, 36, 43]]
    annotations = [
        {
            "id": 2 * i + k + 1,
            "image_id": i + 1,
            "category_id": 3 + (i + k) % 2,
            "bbox": boxes[k],
            "area": 100,
            "iscrowd": 0,
            "segmentation": [[5, 7, 40, 7, 40, 50]],
        }
        for i in range(6)
        for k in range(1 + i % 2)
    ]
    images = [
        {"id": i + 1, "file_name": f"{i:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i in range(6)
    ]
    categories = [{"id": 3 + k, "name": name} for k, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))


def poison_coco(root: Path) -> None:
    """Move every box and mask."""
    path = root / "instances.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["bbox"] = [50 - row["id"], 1, 9, 9]
        row["segmentation"] = [[1, 1, 2, 1, 2, 2]]
        row["area"] = 1
    path.write_text(json.dumps(content))


def write_voc_and_tags(root: Path) -> None:
    """The VOC images and a tags file that says what their annotations do."""
    write_voc(root)
    rows = [
        f"{i:06d}.jpg,{';'.join(CLASSES[(i + k) % 2] for k in range(1 + i % 2))}" for i in range(6)
    ]
    (root / "tags.csv").write_text("\n".join(rows) + "\n")


def delete_annotations(root: Path) -> None:
    """Images and tags are all that is left."""
    shutil.rmtree(root / "Annotations")
    shutil.rmtree(root / "ImageSets")


def register_voc(name: str, root: Path) -> None:
    register_voc_weak(name, root=root, split="train", year=2007, classes=CLASSES)


def register_coco(name: str, root: Path) -> None:
    register_coco_weak(name, json_file=root / "instances.json", image_root=root / "JPEGImages")


def register_voc_or_tags(name: str, root: Path) -> None:
    """The annotated folder as a VOC set, the one without annotations as a tagged folder."""
    if (root / "Annotations").exists():
        register_voc(name, root)
        return
    register_tagged_folder(
        name, image_root=root / "JPEGImages", tags=root / "tags.csv", classes=CLASSES
    )


LAYOUTS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "voc": (write_voc, poison_voc),
    "coco": (write_coco, poison_coco),
    "deleted": (write_voc_and_tags, delete_annotations),
}
REGISTER = {"voc": register_voc, "coco": register_coco, "deleted": register_voc_or_tags}


def write_store(path: Path, name: str) -> None:
    rng = np.random.default_rng(5)
    with ProposalStoreWriter(path) as writer:
        for record in weak_records(name):
            low = rng.uniform(0, 30, (12, 2))
            boxes = np.concatenate([low, low + rng.uniform(22, 40, (12, 2))], axis=1)
            writer.add(record["image_id"], boxes.astype(np.float32), image_size=SIZE)


# Every head by its config keys; the first three are seed miners of WeakSAM's OICR.
WSOD_HEADS: dict[str, dict[str, Any]] = {
    "TopScoring": {"SEED_MINER": "TopScoring"},
    "NearMaximum": {"SEED_MINER": "NearMaximum"},
    "MIST": {"SEED_MINER": "MIST"},
    "WSDDN": {"NUM_REFINEMENTS": 0},
    "PCL": {"REFINEMENT_LOSS": "PCL"},
    "MIST with boxes and DropBlock": {
        "SEED_MINER": "MIST",
        "REGRESSION": "class_specific",
        "BACKGROUND_COLUMN": True,
        "DROPBLOCK.METHOD": "concrete",
    },
}
NUM_LOSSES = {"WSDDN": 1, "MIST with boxes and DropBlock": 7, "classifier": 1}


def wsod_config(name: str, store: Path, head: str) -> Any:
    cfg = base_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "WSODRCNN"
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.BACKBONE.NAME = "build_timm_concat_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "tf_efficientnet_lite0", (2, 3)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "WSODROIHeads", ["concat"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.WSOD.FC_DIM, cfg.MODEL.WSOD.NUM_FC = 8, 1
    cfg.merge_from_list([x for k, v in WSOD_HEADS[head].items() for x in (f"MODEL.WSOD.{k}", v)])
    cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN = (name,), (str(store),)
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = 1000
    cfg.INPUT.MAPPER_NAME, cfg.INPUT.MIN_SIZE_TRAIN = "WeakDatasetMapper", (64, 80)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 2
    cfg.SOLVER.BASE_LR, cfg.SEED = 0.01, 7
    return cfg


def classifier_config(name: str) -> Any:
    cfg = base_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "tf_efficientnet_lite0", (2, 3)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN = (name,)
    cfg.INPUT.MAPPER_NAME, cfg.INPUT.MIN_SIZE_TRAIN = "ImageLabelMapper", (64, 80)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 2
    cfg.SOLVER.BASE_LR, cfg.SEED = 0.01, 7
    return cfg


def losses_of_two_steps(cfg: Any) -> list[dict[str, float]]:
    """Every loss of two optimizer steps, from the registered data set through the model."""
    seed_all_rng(7)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    batches, rows = iter(build_train_loader(cfg)), []
    with EventStorage(0):
        for _ in range(2):
            losses = model(next(batches))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            rows.append({key: value.item() for key, value in losses.items()})
    return rows


def forget(*names: str) -> None:
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("model", ["classifier", *WSOD_HEADS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_true_boxes_change_no_loss_to_the_last_bit(
    tmp_path: Path, layout: str, model: str
) -> None:
    write, poison = LAYOUTS[layout]
    write(tmp_path / "true")
    shutil.copytree(tmp_path / "true", tmp_path / "poisoned")
    poison(tmp_path / "poisoned")
    found = []
    for kind in ("true", "poisoned"):
        name = f"leak_{layout}_{model}_{kind}"
        REGISTER[layout](name, tmp_path / kind)
        if model == "classifier":
            cfg = classifier_config(name)
        else:
            write_store(tmp_path / f"{kind}_store", name)
            cfg = wsod_config(name, tmp_path / f"{kind}_store", model)
        found.append(losses_of_two_steps(cfg))
        forget(name)
    assert found[0] == found[1]
    assert len(found[0][0]) == NUM_LOSSES.get(model, 4)
    assert all(np.isfinite(list(row.values())).all() for row in found[0])


@pytest.mark.parametrize("moved", ["tag images", "box images"])
def test_with_mixed_supervision_only_the_images_that_have_boxes_give_them(
    tmp_path: Path, moved: str
) -> None:
    """Images 0 and 1 have boxes, 2 to 5 tags; moving boxes of the latter changes no bit."""
    write_voc(tmp_path / "true")
    lists = tmp_path / "true/ImageSets/Main"
    (lists / "boxes.txt").write_text("000000\n000001\n")
    (lists / "train.txt").write_text("".join(f"{i:06d}\n" for i in range(2, 6)))
    shutil.copytree(tmp_path / "true", tmp_path / "other")
    poison_voc(tmp_path / "other")
    for i in (0, 1) if moved == "tag images" else (2, 3, 4, 5):
        kept = f"Annotations/{i:06d}.xml"
        shutil.copy(tmp_path / "true" / kept, tmp_path / "other" / kept)
    found = []
    for kind in ("true", "other"):
        names = [f"leak_mixed_{kind}", f"leak_boxes_{kind}", f"leak_both_{kind}"]
        register_voc(names[0], tmp_path / kind)
        register_voc_evaluation(
            names[1], root=tmp_path / kind, split="boxes", year=2007, classes=CLASSES
        )
        register_voc_weak(names[2], root=tmp_path / kind, split="boxes", year=2007, classes=CLASSES)
        stores = [tmp_path / f"{kind}_{part}" for part in ("tags", "boxes")]
        write_store(stores[0], names[0])
        write_store(stores[1], names[2])
        cfg = wsod_config(names[0], stores[0], "MIST with boxes and DropBlock")
        cfg.DATASETS.BOXES_TRAIN, cfg.DATALOADER.BOXES_FRACTION = (names[1],), 0.25
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = tuple(str(store) for store in stores)
        found.append(losses_of_two_steps(cfg))
        forget(*names)
    assert {"loss_mil", "loss_full_mil", "loss_full_cls", "loss_full_box_reg"} < set(found[0][0])
    assert (found[0] == found[1]) == (moved == "tag images")
    weak = [[v for k, v in rows[0].items() if "full" not in k] for rows in found]
    assert weak[0] == weak[1]


def test_the_comparison_sees_other_tags(tmp_path: Path) -> None:
    """What the leak test compares does depend on the tags, so that it could fail."""
    write_voc(tmp_path / "true")
    shutil.copytree(tmp_path / "true", tmp_path / "other")
    for path in (tmp_path / "other/Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("cat", "x").replace("dog", "cat"))
    found = []
    for kind in ("true", "other"):
        register_voc(f"leak_tags_{kind}", tmp_path / kind)
        found.append(losses_of_two_steps(classifier_config(f"leak_tags_{kind}")))
        forget(f"leak_tags_{kind}")
    assert found[0] != found[1]


def test_weak_batches_hold_no_geometry_of_the_truth(tmp_path: Path) -> None:
    write_voc(tmp_path / "true")
    register_voc("leak_fields", tmp_path / "true")
    write_store(tmp_path / "store", "leak_fields")
    batch = next(iter(build_train_loader(wsod_config("leak_fields", tmp_path / "store", "MIST"))))
    allowed = {"image", "height", "width", "image_id", "file_name", "proposals", "image_labels"}
    for item in batch:
        assert set(item) <= allowed
        assert set(item["proposals"].get_fields()) == {"proposal_boxes", "objectness_logits"}
        assert isinstance(item["image_labels"], torch.Tensor)
    forget("leak_fields")
