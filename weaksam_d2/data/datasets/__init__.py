"""Data sets: VOC, COCO, tagged folders, rendered scenes, subsets."""

from weaksam_d2.data.datasets.coco import register_coco_evaluation, register_coco_weak
from weaksam_d2.data.datasets.label_images import register_label_folder, register_voc_labels
from weaksam_d2.data.datasets.scenes import register_scenes
from weaksam_d2.data.datasets.subset import register_subset
from weaksam_d2.data.datasets.tagged_folder import register_tagged_folder
from weaksam_d2.data.datasets.voc import register_voc_evaluation, register_voc_weak
from weaksam_d2.data.datasets.voc_masks import register_voc_masks
from weaksam_d2.data.datasets.voc_segmentation import register_voc_segmentation

__all__ = [
    "register_coco_evaluation",
    "register_coco_weak",
    "register_label_folder",
    "register_scenes",
    "register_subset",
    "register_tagged_folder",
    "register_voc_evaluation",
    "register_voc_labels",
    "register_voc_masks",
    "register_voc_segmentation",
    "register_voc_weak",
]
