"""Mixed supervision: what a weakly supervised head learns from the few images with boxes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.data import ImageTags
from weaksam_d2.ops.boxes import encode_boxes, pairwise_iou
from weaksam_d2.ops.refinement import seed_box_loss

from .mil_head import MILOutputLayers
from .refinement import RefinementBranch

__all__ = ["BoxTargets", "FullSupervision", "build_full_supervision"]

WeakLosses = Callable[[Tensor, list[Instances], list[Any]], dict[str, Tensor]]


@dataclass(frozen=True)
class BoxTargets:
    """Tags and objects of a fully labelled image."""

    tags: ImageTags
    boxes: Tensor
    """float32 (G, 4), XYXY in pixels of the resized image."""
    classes: Tensor
    """int64 (G,)."""

    def to(self, device: torch.device | str) -> "BoxTargets":
        """The same on another device."""
        return BoxTargets(self.tags.to(device), self.boxes.to(device), self.classes.to(device))

    def tolist(self) -> list[int]:
        """The present classes."""
        return self.tags.tolist()

    @classmethod
    def from_sample(cls, sample: Mapping[str, Any], *, num_classes: int) -> "BoxTargets":
        """Read ``full_instances`` of a training sample; its classes are those of its boxes.

        Raises:
            ValueError: a class is out of range; names the image.
        """
        found = sample["full_instances"]
        classes = found.gt_classes.to(torch.int64)
        tagged = {"image_id": sample.get("image_id", "?"), "image_labels": classes}
        tags = ImageTags.from_sample(tagged, num_classes=num_classes)
        return cls(tags, found.gt_boxes.tensor.float(), classes)


class FullSupervision:
    """R-CNN's losses with true boxes on the last refinement branch, beside the weak losses.

    A fully labelled image gives ``loss_full_mil`` (image loss of its classes), ``loss_full_cls``
    and, where the branch has regression, ``loss_full_box_reg`` (smooth L1, beta 1), both over
    sampled proposals and divided by their number. Each is a mean over the fully labelled images
    of the batch, over all ranks, times ``loss_weight``. No true box becomes a proposal.

    Source: extras.md, Sec. 6; Fast R-CNN (Girshick, 2015), Sec. 2.3.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        matcher: Matcher,
        loss_weight: float = 1.0,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
    ) -> None:
        """Set options.

        Args:
            num_classes: C, the label of background.
            matcher: proposals to boxes, from their IoU (G, R).
            loss_weight: mu, of all three losses.
            batch_size_per_image: proposals sampled of an image.
            positive_fraction: largest share of foreground among them.
            box_weights: of the four numbers that say where a box is.
        """
        self.num_classes = num_classes
        self.matcher = matcher
        self.loss_weight = loss_weight
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.box_weights = box_weights

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.BOX_LOSS_WEIGHT`` and the sampling of ``MODEL.ROI_HEADS``."""
        node = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": node.NUM_CLASSES,
            "matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, False),
            "loss_weight": cfg.MODEL.WSOD.BOX_LOSS_WEIGHT,
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "box_weights": tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        }

    def losses(
        self,
        region_features: Tensor,
        proposals: list[Instances],
        targets: list[Any],
        *,
        mil: MILOutputLayers,
        branch: RefinementBranch,
        weak_losses: WeakLosses,
    ) -> dict[str, Tensor]:
        """Losses of a batch of both kinds; a kind that this rank lacks counts 0 x its sum.

        Args:
            region_features: (R of all images, d), images one after another.
            proposals: of each image.
            targets: :class:`BoxTargets` of a fully labelled image, else what ``weak_losses``
                takes.
            mil: the two streams.
            branch: the last refinement branch.
            weak_losses: the losses of images of the other kind.
        """
        rows = region_features.split([len(p) for p in proposals])
        kinds = [isinstance(target, BoxTargets) for target in targets]
        tagged = [k for k, full in enumerate(kinds) if not full]
        boxed = [k for k, full in enumerate(kinds) if full]
        shares = _shares(len(tagged), len(boxed), region_features.device)
        chosen = tagged or boxed
        weak = weak_losses(
            torch.cat([rows[k] for k in chosen]),
            [proposals[k] for k in chosen],
            [targets[k] if tagged else targets[k].tags for k in chosen],
        )
        losses = {name: loss * shares[0] for name, loss in weak.items()}
        images = [(rows[k], proposals[k], targets[k]) for k in boxed]
        full = self._full(images, mil, branch) if images else None
        for name in self._names(branch):
            term = region_features.sum() * 0 if full is None else full[name] * shares[1]
            losses[name] = term * self.loss_weight
        return losses

    def sample(self, boxes: Tensor, target: BoxTargets) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (S,) of sampled proposals (R, 4), their classes (C: background) and true boxes.

        Without an object all is background, and the boxes are of any content.
        """
        index, matched = self.matcher(pairwise_iou(target.boxes, boxes))
        labels = torch.full_like(index, self.num_classes)
        found = boxes.clone()
        if len(target.boxes):
            found = target.boxes[index]
            labels = torch.where(matched == 1, target.classes[index], labels)
        labels = labels.masked_fill(matched == -1, -1)
        parts = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        rows = torch.cat(parts)
        return rows, labels[rows], found[rows]

    def _full(
        self,
        images: list[tuple[Tensor, Instances, BoxTargets]],
        mil: MILOutputLayers,
        branch: RefinementBranch,
    ) -> dict[str, Tensor]:
        features = torch.cat([rows for rows, _, _ in images])
        scores = mil(features, [len(p) for _, p, _ in images])
        terms: dict[str, list[Tensor]] = {name: [] for name in self._names(branch)[1:]}
        for rows, proposals, target in images:
            boxes = proposals.proposal_boxes.tensor
            with torch.no_grad():
                chosen, labels, true = self.sample(boxes, target)
                # Background may be matched to a box that it does not touch.
                deltas = encode_boxes(true, boxes[chosen], self.box_weights)
            logits, found = branch(rows), branch.box_deltas(rows)
            count = max(len(chosen), 1)
            loss = F.cross_entropy(logits[chosen], labels, reduction="sum") / count
            terms["loss_full_cls"].append(loss)
            if found is not None:
                weights = (labels < self.num_classes).float()
                box_loss = seed_box_loss(found[chosen], deltas, labels, weights)
                terms["loss_full_box_reg"].append(box_loss)
            proposals.class_scores = logits.detach().softmax(dim=1)[:, : self.num_classes]
        means = {name: torch.stack(found).mean() for name, found in terms.items()}
        return {"loss_full_mil": mil.loss(scores, [t.tags for _, _, t in images]), **means}

    def _names(self, branch: RefinementBranch) -> list[str]:
        names = ["loss_full_mil", "loss_full_cls"]
        return names if branch.regression is None else [*names, "loss_full_box_reg"]


def build_full_supervision(cfg: Any) -> FullSupervision | None:
    """What ``DATASETS.BOXES_TRAIN`` asks for; None if it is empty.

    Raises:
        ValueError: there is no refinement branch to supervise.
    """
    if not cfg.DATASETS.BOXES_TRAIN:
        return None
    if cfg.MODEL.WSOD.NUM_REFINEMENTS < 1:
        raise ValueError(
            "DATASETS.BOXES_TRAIN supervises the last refinement branch and "
            "MODEL.WSOD.NUM_REFINEMENTS is 0; set it to 1 or more"
        )
    return FullSupervision(cfg)


def _shares(tagged: int, boxed: int, device: torch.device) -> tuple[float | Tensor, ...]:
    """Factors that make local means of both kinds, averaged by DDP, means over all ranks."""
    if comm.get_world_size() == 1:
        return float(tagged > 0), float(boxed > 0)
    here = torch.tensor([tagged, boxed], dtype=torch.float32, device=device)
    everywhere = here.clone()
    torch.distributed.all_reduce(everywhere)
    factors = here * comm.get_world_size() / everywhere.clamp(min=1)
    return factors[0], factors[1]
