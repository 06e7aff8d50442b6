"""Figures about proposals, detections, label maps and image tags."""

from weaksam_d2.evaluation.bootstrap import (
    batched_intervals,
    bootstrap_interval,
    bootstrap_intervals,
)
from weaksam_d2.evaluation.build import build_evaluator, build_mask_evaluator
from weaksam_d2.evaluation.class_table import class_table
from weaksam_d2.evaluation.coco import CocoBoxEvaluator, coco_intervals, compute_coco_ap
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections, GroundTruth
from weaksam_d2.evaluation.corloc import CorLocEvaluator, compute_corloc
from weaksam_d2.evaluation.coverage import Coverage, counted_objects, measure_coverage
from weaksam_d2.evaluation.detections_writer import DetectionsWriter, detection_entries
from weaksam_d2.evaluation.exclusion import ExcludingEvaluator, read_image_ids
from weaksam_d2.evaluation.failures import Failure, find_failures
from weaksam_d2.evaluation.label_figures import LabelFigures, LabelTally, evaluate_labels
from weaksam_d2.evaluation.label_table import label_table
from weaksam_d2.evaluation.label_truth import TrueLabels, truth_name, truth_reader
from weaksam_d2.evaluation.mask_matching import TrueMasks, match_masks
from weaksam_d2.evaluation.masks import MaskEvaluator, compute_mask_ap
from weaksam_d2.evaluation.multilabel import MultilabelEvaluator, compute_multilabel_ap
from weaksam_d2.evaluation.recall import (
    ProposalRecallEvaluator,
    average_recall,
    compute_recall,
    covered_iou,
    evaluate_store,
    recall_by_count,
    recall_curve,
    recall_groups,
    recall_intervals,
    store_boxes,
)
from weaksam_d2.evaluation.recall_table import (
    RecallSettings,
    measure_views,
    recall_table,
    table_rows,
)
from weaksam_d2.evaluation.sem_seg import WSSSEvaluator
from weaksam_d2.evaluation.store_views import StoreView, first_boxes, source_views
from weaksam_d2.evaluation.submission import (
    read_voc_results,
    write_coco_results,
    write_voc_results,
)
from weaksam_d2.evaluation.voc import (
    ClassMatches,
    WeakVOCEvaluator,
    compute_voc_ap,
    match_classes,
    resampled_mean_ap,
)

__all__ = [
    "ClassMatches",
    "CocoBoxEvaluator",
    "CorLocEvaluator",
    "Coverage",
    "DetectionEvaluator",
    "Detections",
    "DetectionsWriter",
    "ExcludingEvaluator",
    "Failure",
    "GroundTruth",
    "LabelFigures",
    "LabelTally",
    "MaskEvaluator",
    "MultilabelEvaluator",
    "ProposalRecallEvaluator",
    "RecallSettings",
    "StoreView",
    "TrueLabels",
    "TrueMasks",
    "WSSSEvaluator",
    "WeakVOCEvaluator",
    "average_recall",
    "batched_intervals",
    "bootstrap_interval",
    "bootstrap_intervals",
    "build_evaluator",
    "build_mask_evaluator",
    "class_table",
    "coco_intervals",
    "compute_coco_ap",
    "compute_corloc",
    "compute_mask_ap",
    "compute_multilabel_ap",
    "compute_recall",
    "compute_voc_ap",
    "counted_objects",
    "covered_iou",
    "detection_entries",
    "evaluate_labels",
    "evaluate_store",
    "find_failures",
    "first_boxes",
    "label_table",
    "match_classes",
    "match_masks",
    "measure_coverage",
    "measure_views",
    "read_image_ids",
    "read_voc_results",
    "recall_by_count",
    "recall_curve",
    "recall_groups",
    "recall_intervals",
    "recall_table",
    "resampled_mean_ap",
    "source_views",
    "store_boxes",
    "table_rows",
    "truth_name",
    "truth_reader",
    "write_coco_results",
    "write_voc_results",
]
