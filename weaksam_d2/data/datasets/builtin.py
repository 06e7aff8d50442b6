"""The data sets known by name, under ``$DETECTRON2_DATASETS`` (default ``datasets``)."""

import os
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from weaksam_d2.data.datasets.coco import register_coco_evaluation, register_coco_weak
from weaksam_d2.data.datasets.scenes import SCENE_SETS, register_scenes
from weaksam_d2.data.datasets.server_sets import register_coco_server_set, register_voc_server_set
from weaksam_d2.data.datasets.voc import register_voc_evaluation, register_voc_weak
from weaksam_d2.data.datasets.voc_segmentation import register_voc_segmentation

__all__ = ["register_builtin"]

_VOC_SPLITS = {2007: ("train", "val", "trainval", "test"), 2012: ("train", "val", "trainval")}
# Name: (annotation file, image folder), as in detectron2's own layout.
_COCO_SPLITS = {
    "coco_2014_train": ("instances_train2014.json", "train2014"),
    "coco_2014_val": ("instances_val2014.json", "val2014"),
    "coco_2014_minival": ("instances_minival2014.json", "val2014"),
    "coco_2014_valminusminival": ("instances_valminusminival2014.json", "val2014"),
    "coco_2017_train": ("instances_train2017.json", "train2017"),
    "coco_2017_val": ("instances_val2017.json", "val2017"),
}


def register_builtin(root: str | Path) -> None:
    """Register ``voc_*``, ``coco_*`` and ``scenes_*``, each as ``…_weak`` and ``…_eval``.

    The two test sets that a server evaluates are ``…_weak`` alone.

    No file is opened (or rendered) before a set is loaded, and no name of detectron2 is touched.
    """
    root = Path(root)
    for year, splits in _VOC_SPLITS.items():
        for split in splits:
            name, folder = f"voc_{year}_{split}", root / f"VOC{year}"
            register_voc_weak(
                f"{name}_weak", root=folder, split=split, year=year, evaluation_name=f"{name}_eval"
            )
            register_voc_evaluation(f"{name}_eval", root=folder, split=split, year=year)
    for split in ("train", "val", "trainval"):
        register_voc_segmentation(
            f"voc_2012_seg_{split}", root=root / "VOC2012", split=split, year=2012
        )
    # The usual training set of segmentation: VOC's and SBD's outlines, without objects.
    register_voc_segmentation(
        "voc_2012_seg_trainaug",
        root=root / "VOC2012",
        split="trainaug",
        year=2012,
        instances=False,
        mask_folder="SegmentationClassAug",
    )
    register_voc_server_set("voc_2012_test_weak", root=root / "VOC2012", split="test", year=2012)
    register_voc_server_set(
        "voc_2012_seg_test_weak",
        root=root / "VOC2012",
        split="test",
        year=2012,
        split_folder="Segmentation",
    )
    categories = [c for c in COCO_CATEGORIES if c["isthing"]]
    register_coco_server_set(
        "coco_2017_test-dev_weak",
        json_file=root / "coco" / "annotations" / "image_info_test-dev2017.json",
        image_root=root / "coco" / "test2017",
        categories=categories,
    )
    for name, (json_name, images) in _COCO_SPLITS.items():
        json_file, image_root = root / "coco" / "annotations" / json_name, root / "coco" / images
        register_coco_weak(
            f"{name}_weak",
            json_file=json_file,
            image_root=image_root,
            evaluation_name=f"{name}_eval",
            categories=categories,
        )
        register_coco_evaluation(
            f"{name}_eval", json_file=json_file, image_root=image_root, categories=categories
        )
    for scene_set in SCENE_SETS.values():
        for split in scene_set.counts:
            register_scenes(
                f"scenes_{scene_set.name}_{split}",
                root=root / "scenes",
                split=split,
                scenes=scene_set,
            )


# Registered when this module is imported, as detectron2 does with its own.
register_builtin(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
