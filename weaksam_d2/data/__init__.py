"""Data: data sets with image-level labels, their annotated twins, mappers and loaders."""

from weaksam_d2.data.annotation_fields import AnnotationFieldsMapper
from weaksam_d2.data.box_supervision import BoxSupervisionMapper, describe_boxes
from weaksam_d2.data.build import (
    build_test_loader,
    build_train_loader,
    prepare_datasets,
    skip_iterations,
    weak_records,
)
from weaksam_d2.data.classification_mapper import ClassificationMapper
from weaksam_d2.data.datasets import (
    register_coco_evaluation,
    register_coco_weak,
    register_label_folder,
    register_scenes,
    register_subset,
    register_tagged_folder,
    register_voc_evaluation,
    register_voc_labels,
    register_voc_masks,
    register_voc_segmentation,
    register_voc_weak,
)
from weaksam_d2.data.datasets.builtin import register_builtin  # registers voc_*, coco_*, scenes_*
from weaksam_d2.data.image_labels import image_labels
from weaksam_d2.data.image_tags import ImageTags
from weaksam_d2.data.images import DamagedImageError, image_size, read_image
from weaksam_d2.data.label_sources import (
    LABEL_SOURCE_REGISTRY,
    LabelResult,
    LabelSource,
    LabelsSummary,
    generate_labels,
    required_input,
)
from weaksam_d2.data.pseudo_gt import register_pseudo_gt, register_pseudo_gt_of
from weaksam_d2.data.pseudo_labels import register_pseudo_labels_of
from weaksam_d2.data.samplers import TagBalancedTrainingSampler, TagRepeatFactorTrainingSampler
from weaksam_d2.data.sem_seg_mapper import SemSegMapper, read_record_label, reads_label_images
from weaksam_d2.data.weak_mapper import (
    DATASET_MAPPER_REGISTRY,
    ImageLabelMapper,
    WeakDatasetMapper,
)

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "LABEL_SOURCE_REGISTRY",
    "AnnotationFieldsMapper",
    "BoxSupervisionMapper",
    "ClassificationMapper",
    "DamagedImageError",
    "ImageLabelMapper",
    "ImageTags",
    "LabelResult",
    "LabelSource",
    "LabelsSummary",
    "SemSegMapper",
    "TagBalancedTrainingSampler",
    "TagRepeatFactorTrainingSampler",
    "WeakDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "describe_boxes",
    "generate_labels",
    "image_labels",
    "image_size",
    "prepare_datasets",
    "read_image",
    "read_record_label",
    "reads_label_images",
    "register_builtin",
    "register_coco_evaluation",
    "register_coco_weak",
    "register_label_folder",
    "register_pseudo_gt",
    "register_pseudo_gt_of",
    "register_pseudo_labels_of",
    "register_scenes",
    "register_subset",
    "register_tagged_folder",
    "register_voc_evaluation",
    "register_voc_labels",
    "register_voc_masks",
    "register_voc_segmentation",
    "register_voc_weak",
    "required_input",
    "skip_iterations",
    "weak_records",
]
