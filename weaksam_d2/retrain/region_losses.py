"""The two losses of every sampled region, not summed yet: what RoI drop judges and adds up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SCORE_FIELD", "RegionLosses", "region_losses", "region_scores"]

SCORE_FIELD = "gt_score_norm"  # of the targets; sampling copies gt_* fields to regions
_OVERLAP_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclass(frozen=True)
class RegionLosses:
    """Losses (R,) of the sampled regions of a batch, float32 and attached to the graph.

    ``classification``: cross entropy in nats. ``box``: sum of smooth L1 over the four coordinates,
    or the overlap loss; 0 for background. ``labels``: int64 (R,). ``foreground``: bool (R,).
    """

    classification: Tensor
    box: Tensor
    labels: Tensor
    foreground: Tensor


def region_losses(
    predictor: FastRCNNOutputLayers,
    predictions: tuple[Tensor, Tensor],
    proposals: Sequence[Instances],
) -> RegionLosses:
    """Compute the losses that ``predictor.losses`` would sum, region by region.

    Args:
        predictor: any box predictor with detectron2's softmax and box losses, class-specific or
            class-agnostic.
        predictions: logits (R, K + 1) and deltas (R, 4 K) or (R, 4).
        proposals: sampled regions with ``proposal_boxes``, ``gt_classes`` and, where there is an
            object, ``gt_boxes``; R in all, at least 1.

    Returns:
        The losses in float32, also under autocast.
    """
    logits, deltas = predictions
    labels = cat([p.gt_classes for p in proposals])
    foreground = (labels >= 0) & (labels < predictor.num_classes)
    boxes = cat([p.proposal_boxes.tensor for p in proposals])
    # An image without ground truth has background only, whose target is never read.
    targets = cat(
        [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
    )
    rows = foreground.nonzero(as_tuple=True)[0]
    chosen = deltas[rows]
    if deltas.shape[1] != boxes.shape[1]:
        per_class = deltas.view(len(deltas), predictor.num_classes, boxes.shape[1])
        chosen = per_class[rows, labels[rows]]
    with torch.autocast(logits.device.type, enabled=False):
        classification = F.cross_entropy(logits.float(), labels, reduction="none")
        box = _box_loss(predictor, chosen.float(), boxes[rows], targets[rows])
    zeros = torch.zeros_like(classification, requires_grad=False)
    return RegionLosses(classification, zeros.index_put((rows,), box), labels, foreground)


def _box_loss(
    predictor: FastRCNNOutputLayers, deltas: Tensor, boxes: Tensor, targets: Tensor
) -> Tensor:
    """Loss (F,) of foreground regions."""
    transform = predictor.box2box_transform
    if predictor.box_reg_loss_type == "smooth_l1":
        wanted = transform.get_deltas(boxes, targets)
        loss: Tensor = smooth_l1_loss(
            deltas, wanted, beta=predictor.smooth_l1_beta, reduction="none"
        )
        return loss.sum(dim=1)
    if predictor.box_reg_loss_type not in _OVERLAP_LOSSES:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE is {predictor.box_reg_loss_type!r}, expected "
            f"smooth_l1 or one of {', '.join(_OVERLAP_LOSSES)}"
        )
    predicted = transform.apply_deltas(deltas, boxes)
    overlap: Tensor = _OVERLAP_LOSSES[predictor.box_reg_loss_type](
        predicted, targets, reduction="none"
    )
    return overlap


def region_scores(proposals: Sequence[Instances], foreground: Tensor) -> Tensor:
    """Normalized score (R,) of the pseudo box that each region is matched to; background: any.

    Raises:
        ValueError: an image with objects whose targets have no ``gt_score_norm``.
    """
    scores = []
    for regions in proposals:
        if regions.has("gt_boxes") and not regions.has(SCORE_FIELD):
            raise ValueError(
                f"MODEL.ROI_DROP.SCORE_WEIGHT 'score_norm' needs the field {SCORE_FIELD} of the "
                "training targets; train on DATASETS.PSEUDO_GT_TRAIN, whose annotations have "
                "score_norm, or set it in your mapper"
            )
        blank = foreground.new_ones(len(regions), dtype=torch.float32)
        scores.append(regions.get(SCORE_FIELD).float() if regions.has(SCORE_FIELD) else blank)
    return cat(scores)
