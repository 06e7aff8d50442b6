"""Functions on arrays and tensors: the formulas of the method, without files, config or models."""

from weaksam_d2.ops.affinity import (
    activation_box_mask,
    grad_cam,
    propagate,
    sinkhorn,
    symmetrize,
)
from weaksam_d2.ops.boxes import (
    box_area,
    clip_boxes,
    deduplicate,
    encode_boxes,
    pairwise_iof,
    pairwise_iou,
    valid_boxes,
)
from weaksam_d2.ops.drop import (
    kept_mean,
    percentile_loss,
    query_drop_mask,
    roi_drop_mask,
    running_limits,
    score_weight,
)
from weaksam_d2.ops.dropblock import apply_drop_block, sample_centers
from weaksam_d2.ops.fusion import Fused, fuse_nms, fuse_weighted
from weaksam_d2.ops.loss_bins import LossBins, bin_losses
from weaksam_d2.ops.maps import fuse_scales, iter_fused_maps, max_pool_same, normalize_map
from weaksam_d2.ops.masks import (
    decode_rle,
    encode_rle,
    masks_to_boxes,
    resize_matrix,
    stability_score,
)
from weaksam_d2.ops.matching import (
    Matches,
    best_iou,
    bootstrap_indices,
    corloc_hits,
    iou_matrix,
    match_detections,
    one2one_recall_iou,
    precision_recall,
    voc_ap,
)
from weaksam_d2.ops.mil import image_level_loss, mil_scores
from weaksam_d2.ops.nms import batched_nms, nms, unscored_nms
from weaksam_d2.ops.pcl import cluster_loss, graph_centers, top_cluster
from weaksam_d2.ops.peaks import cluster_members, cluster_points, find_peaks, grid_points
from weaksam_d2.ops.pseudo_gt import (
    Selection,
    select_adaptive,
    select_all,
    select_sos,
    select_threshold,
    select_top1,
    select_topk,
    select_w2n,
    usable_detections,
)
from weaksam_d2.ops.refinement import seed_box_loss
from weaksam_d2.ops.resampling import resampled_ap, resampled_counts
from weaksam_d2.ops.seeds import (
    Assignment,
    Seeds,
    assign_to_seeds,
    mist,
    near_maximum,
    refinement_norm,
    top_scoring,
    weighted_ce,
)
from weaksam_d2.ops.similarity import mean_cosine_similarity
from weaksam_d2.ops.views import image_to_view, view_to_image

__all__ = [
    "Assignment",
    "LossBins",
    "Fused",
    "Matches",
    "Seeds",
    "Selection",
    "activation_box_mask",
    "apply_drop_block",
    "assign_to_seeds",
    "batched_nms",
    "best_iou",
    "bin_losses",
    "bootstrap_indices",
    "box_area",
    "clip_boxes",
    "cluster_loss",
    "cluster_members",
    "cluster_points",
    "corloc_hits",
    "decode_rle",
    "deduplicate",
    "encode_boxes",
    "encode_rle",
    "find_peaks",
    "fuse_nms",
    "fuse_scales",
    "fuse_weighted",
    "grad_cam",
    "grid_points",
    "graph_centers",
    "image_level_loss",
    "image_to_view",
    "iou_matrix",
    "iter_fused_maps",
    "kept_mean",
    "masks_to_boxes",
    "match_detections",
    "max_pool_same",
    "mean_cosine_similarity",
    "mil_scores",
    "mist",
    "near_maximum",
    "nms",
    "normalize_map",
    "one2one_recall_iou",
    "pairwise_iof",
    "pairwise_iou",
    "percentile_loss",
    "precision_recall",
    "propagate",
    "query_drop_mask",
    "refinement_norm",
    "resampled_ap",
    "resampled_counts",
    "resize_matrix",
    "roi_drop_mask",
    "running_limits",
    "sample_centers",
    "score_weight",
    "seed_box_loss",
    "select_adaptive",
    "select_all",
    "select_sos",
    "select_threshold",
    "select_top1",
    "select_topk",
    "select_w2n",
    "sinkhorn",
    "stability_score",
    "symmetrize",
    "top_cluster",
    "top_scoring",
    "unscored_nms",
    "usable_detections",
    "valid_boxes",
    "view_to_image",
    "voc_ap",
    "weighted_ce",
]
