"""Every YAML of configs/ and projects/: it loads, its model builds and takes two training steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from PIL import Image

from weaksam_d2.artifacts import (
    LabelSpace,
    ProposalStoreWriter,
    PseudoGroundTruth,
    SemSegLabelsWriter,
    write_pseudo_gt,
)
from weaksam_d2.data import reads_label_images, register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.class_count import check_class_count
from weaksam_d2.engine.training.trainer import WeakSAMTrainer
from weaksam_d2.model_zoo import get_config_file, list_config_files
from weaksam_d2.ops import encode_rle
from weaksam_d2.projects import add_all_configs

EVERY = list_config_files()
PATHS = {name: Path(get_config_file(name)) for name in EVERY}
PIPELINES = [name for name in EVERY if name.startswith("pipelines/")]
BASES = [name for name in EVERY if PATHS[name].name.startswith("Base-")]
# Small files, taken as _BASE_ after the config that they change.
DELTAS = {
    "reference/oicr_drn.yaml": "PascalVOC-Detection/oicr_V_16_1x.yaml",
    "reference/oicr_pcl.yaml": "PascalVOC-Detection/oicr_V_16_1x.yaml",
    "reference/oicr_wetectron.yaml": "PascalVOC-Detection/oicr_V_16_1x.yaml",
    "reference/roi_drop.yaml": "quick_schedules/faster_rcnn_lite0_roi_drop.yaml",
    "projects/S2C/configs/reference/s2c_release.yaml": "projects/S2C/configs/s2c_wrn38_voc12.yaml",
}
# Of stages that train nothing.
UNTRAINED = {
    *("COCO-Classification/clip_es_vit_b16.yaml", "PascalVOC-Classification/clip_es_vit_b16.yaml"),
    *("reference/clip_es.yaml", "reference/paper_kernel.yaml", "reference/proposals.yaml"),
    *("reference/pseudo_gt.yaml",),
    *(name for name in EVERY if name.startswith("SAM-Masks/")),
    *(name for name in EVERY if name.startswith("CAM-Labels/")),  # of the classifiers' own files
    *(name for name in EVERY if name.startswith("projects/SEPL/")),
    *(name for name in EVERY if name.startswith("projects/BoxSAM/")),  # its tagger has its own test
}
MODELS = [n for n in EVERY if n not in {*PIPELINES, *BASES, *UNTRAINED}]
PUBLISHED = [n for n in MODELS if n.startswith(("COCO-", "PascalVOC-")) or "_R_50_" in n]

HEIGHT, WIDTH, BOXES = 64, 80, 30
# What makes a step small. The networks start from random weights, which published learning rates
# are not for; the rest of the recipe stays.
SMALL: tuple[Any, ...] = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.TIMM.WEIGHTS", ""),
    *("MODEL.CLASSIFIER.WEIGHTS", "", "MODEL.WSOD.FC_DIM", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.CLASSIFICATION.SIZE", 64),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.AMP.ENABLED", False),
    *(
        "SOLVER.BASE_LR",
        1e-6,
        "SOLVER.BASE_LR_END",
        0.0,
        "SOLVER.STEPS",
        (1,),
        "SOLVER.MAX_ITER",
        2,
        "SEED",
        1,
    ),
    *("WEAKSAM.SAM.BACKEND", "FakeSam", "INPUT.S2C.CROP_SIZE", 64),
    *("INPUT.LSJ.SIZE", 64, "MODEL.DINO.NUM_QUERIES", 20, "MODEL.DINO.FFN_DIM", 16),
    *("MODEL.DINO.WEIGHTS", "", "MODEL.MASK2FORMER.WEIGHTS", ""),
    *("INPUT.CROP.SIZE", (64, 64), "MODEL.WRN38.WIDTH", 4, "MODEL.SWIN.EMBED_DIM", 24),
    *("MODEL.SWIN.DEPTHS", (1, 1, 1, 1), "MODEL.SWIN.NUM_HEADS", (1, 1, 1, 1)),
    *("MODEL.MASK2FORMER.NUM_QUERIES", 10, "MODEL.MASK2FORMER.NUM_POINTS", 100),
    *("SOLVER.WARMUP_ITERS", 0, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "DATASETS.TEST", ()),
)

# Of segmenters, whose ResNets have large maps: the same layers of fewer channels.
NARROW = (
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images and thirty scored proposals for each."""
    root = tmp_path_factory.mktemp("configs")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    with ProposalStoreWriter(root / "proposals") as writer:
        for name in "ab":
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / f"{name}.png")
            low = rng.uniform(0, 24, (BOXES, 2))
            boxes = np.concatenate([low, low + rng.uniform(30, 40, (BOXES, 2))], axis=1)
            scores = np.linspace(0.9, 0.1, BOXES, dtype=np.float32)
            masks = np.zeros((BOXES, HEIGHT, WIDTH), dtype=bool)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int).tolist(), strict=True):
                mask[y1:y2, x1:x2] = True
            fields = {"scores": scores, "masks": encode_rle(masks)}
            writer.add(name, boxes.astype(np.float32), **fields, image_size=(HEIGHT, WIDTH))
    (root / "tags.csv").write_text("a.png,c0\nb.png,c0;c1\n")
    return root


@pytest.fixture()
def tiny(folder: Path) -> Iterator[Any]:
    """Registers the images as a weak set of so many classes, and forgets what was registered."""
    known = set(DatasetCatalog.list())

    def register(count: int) -> str:
        register_tagged_folder(
            "tiny",
            image_root=folder / "photos",
            tags=folder / "tags.csv",
            classes=[f"c{number}" for number in range(count)],
        )
        return "tiny"

    yield register
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def pseudo_boxes(path: Path, count: int, *, masks: bool = False) -> str:
    """One box in each image, with its mask if asked for."""
    info = {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}
    images = [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in ("a", "b")
    ]
    annotations = [{"image_id": i, "category_id": 1, "bbox": [10, 10, 40, 40]} for i in ("a", "b")]
    if masks:
        filled = np.zeros((1, HEIGHT, WIDTH), dtype=bool)
        filled[:, 10:50, 10:50] = True
        mask = {"size": [HEIGHT, WIDTH], "counts": encode_rle(filled)[0].decode()}
        annotations = [{**row, "segmentation": mask} for row in annotations]
    categories = [{"id": number + 1, "name": f"c{number}"} for number in range(count)]
    write_pseudo_gt(path, PseudoGroundTruth(images, annotations, categories, {"weaksam": info}))
    return str(path)


def pseudo_labels(path: Path, count: int) -> str:
    """Label images: background, a square of the second class, a border without label."""
    space = LabelSpace("tiny", [f"c{number}" for number in range(count)])
    label = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    label[8:52, 8:52], label[10:50, 10:50] = 255, 2
    made = {"system": "CAM", "base": "paper", "supervision": "image_labels"}
    with SemSegLabelsWriter(path, space=space, **made) as writer:
        for image_id in "ab":
            writer.add(image_id, label)
    return str(path)


def load(name: str, folder: Path) -> Any:
    cfg = cli.base_config(add_all_configs)
    if name in DELTAS:
        merged = folder / "merged.yaml"
        merged.write_text(f"_BASE_: {[str(PATHS[DELTAS[name]]), str(PATHS[name])]}\n")
        cfg.merge_from_file(str(merged))
    else:
        cfg.merge_from_file(str(PATHS[name]))
    return cfg


@pytest.mark.parametrize("name", EVERY)
def test_a_config_has_only_keys_that_exist(name: str) -> None:
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(str(PATHS[name]))
    assert cfg.VERSION == 2
    if name in UNTRAINED and "clip_es_" in name:
        assert cfg.SOLVER.MAX_ITER == 0


def test_every_base_is_one_and_every_delta_changes_something(tmp_path: Path) -> None:
    named: set[str] = set()
    for name in EVERY:
        bases = yaml.safe_load(PATHS[name].read_text()).get("_BASE_", [])
        for base in [bases] if isinstance(bases, str) else bases:
            path = (PATHS[name].parent / base).resolve()
            named.update(known for known in BASES if PATHS[known] == path)
    assert set(BASES) <= named, f"no config takes {sorted(set(BASES) - named)}"
    for name, base in DELTAS.items():
        assert load(name, tmp_path) != load(base, tmp_path), name
    assert len(MODELS) > 30 and set(DELTAS) | UNTRAINED <= set(EVERY)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_counts_the_classes_of_its_data_sets(name: str) -> None:
    cfg = load(name, Path())
    assert all(d in DatasetCatalog.list() for d in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    check_class_count(cfg)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_of_a_config_takes_two_finite_training_steps(
    name: str, tiny: Any, folder: Path, tmp_path: Path
) -> None:
    cfg = load(name, tmp_path)
    semantic = reads_label_images(cfg)
    if name not in PUBLISHED and name not in DELTAS:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3  # a pipeline sets what its data set has
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1 if semantic else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    cfg.merge_from_list(list(SMALL))
    cfg.DATASETS.TRAIN = (tiny(count),)
    if cfg.MODEL.LOAD_PROPOSALS:
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(folder / "proposals"),)
    elif semantic:
        cfg.merge_from_list(list(NARROW))
        cfg.DATASETS.PSEUDO_LABELS_TRAIN = (pseudo_labels(tmp_path / "labels", count),)
    elif cfg.INPUT.MAPPER_NAME == "S2CMapper":
        cfg.MODEL.S2C.MASKS = str(folder / "proposals")
    elif cfg.INPUT.MAPPER_NAME in ("", "DetrMapper", "Mask2FormerMapper"):
        truth = pseudo_boxes(tmp_path / "pseudo_gt.json", count, masks=cfg.MODEL.MASK_ON)
        cfg.DATASETS.PSEUDO_GT_TRAIN = (truth,)
    cfg.OUTPUT_DIR = str(tmp_path)
    seed_all_rng(1)
    trainer = WeakSAMTrainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()  # refuses a loss that is not finite
            trainer.storage.step()
    after = [p.detach() for p in trainer.model.parameters() if p.requires_grad]
    assert all(bool(value.isfinite().all()) for value in after)
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
    assert trainer.storage.latest()["total_loss"][0] > 0
