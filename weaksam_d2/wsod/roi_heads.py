"""The ROI head of weakly supervised detection: all proposals, image labels, no boxes."""

from typing import Any, cast

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from weaksam_d2.ops.nms import batched_nms

from .box_head import WSODBoxHead
from .mil_head import MILOutputLayers
from .refinement import RefinementBranch, RefinementLoss, build_refinement_loss
from .seed_miner import SeedMiner, build_seed_miner

__all__ = ["WSODROIHeads"]


@ROI_HEADS_REGISTRY.register()
class WSODROIHeads(ROIHeads):
    """Two MIL streams and K refinement branches over all proposals in file order.

    In training a target is the int64 (m,) tensor of an image's classes; the losses are
    ``loss_mil`` and ``loss_refine_1`` ... ``loss_refine_K``, means over the images of the batch.
    The branches are the parameters ``refinement.*`` (``MODEL.WSOD.REFINE_LR_MULT``).

    Source: weaksam.md, Sec. 5.3 to 5.6.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        in_features: list[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        mil: MILOutputLayers,
        refinement: list[RefinementBranch],
        seed_miner: SeedMiner | None = None,
        refinement_loss: RefinementLoss | None = None,
        first_branch_weight: float = 1.0,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.3,
        test_topk_per_image: int = 100,
    ) -> None:
        """Assemble the parts.

        Args:
            num_classes: C, without background.
            in_features: names of the feature maps that regions are pooled from.
            box_pooler: pools the regions of all images.
            box_head: pooled regions -> features (R, d).
            mil: the two streams.
            refinement: K branches; empty: the streams alone (WSDDN).
            seed_miner: seeds of branch k from the scores of branch k - 1; needed if K > 0.
            refinement_loss: how seeds supervise a branch; needed if K > 0.
            first_branch_weight: factor of ``loss_refine_1``.
            test_score_thresh: a detection's score is above this.
            test_nms_thresh: IoU above which the lower score of a class is suppressed.
            test_topk_per_image: detections of an image over all classes.

        Raises:
            ValueError: if there are branches but no miner or no loss.
        """
        # The parent's matching and sampling needs boxes of the ground truth and is never called.
        super().__init__(
            num_classes=num_classes,
            batch_size_per_image=0,
            positive_fraction=0.0,
            proposal_matcher=None,
            proposal_append_gt=False,
        )
        if refinement and (seed_miner is None or refinement_loss is None):
            raise ValueError("refinement branches need a seed_miner and a refinement_loss")
        self.in_features = list(in_features)
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.mil = mil
        self.refinement = nn.ModuleList(refinement)
        self.seed_miner = seed_miner
        self.refinement_loss = refinement_loss
        self.first_branch_weight = first_branch_weight
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.WSOD``, ``MODEL.ROI_HEADS`` and the pooler of ``MODEL.ROI_BOX_HEAD``."""
        node, num_classes = cfg.MODEL.WSOD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if node.NUM_REFINEMENTS < 0:
            raise ValueError(f"MODEL.WSOD.NUM_REFINEMENTS must be >= 0, got {node.NUM_REFINEMENTS}")
        box_pooler, box_head = _build_region_layers(cfg, input_shape)
        size: int = cast(Any, box_head).output_shape.channels
        branches = [
            RefinementBranch(size, num_classes=num_classes, init_std=node.INIT_STD)
            for _ in range(node.NUM_REFINEMENTS)
        ]
        return {
            "num_classes": num_classes,
            "in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": box_pooler,
            "box_head": box_head,
            "mil": MILOutputLayers(
                size,
                num_classes=num_classes,
                loss_reduce=node.IMAGE_LOSS_REDUCE,
                eps=node.CLAMP_EPS,
                init_std=node.INIT_STD,
            ),
            "refinement": branches,
            "seed_miner": build_seed_miner(cfg) if branches else None,
            "refinement_loss": build_refinement_loss(cfg) if branches else None,
            "first_branch_weight": node.FIRST_BRANCH_WEIGHT,
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Tensor] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Losses in training, detections otherwise.

        In training the proposals get a field ``class_scores`` (R, C), what the head believes of
        them; in inference a field ``image_labels``, bool (R, C), cuts absent classes before the
        top-k.
        """
        del images
        region_features = self.region_features(features, proposals)
        if not self.training:
            return self._detect(self.class_scores(region_features, proposals), proposals), {}
        if targets is None:
            raise ValueError("training needs the image-level labels of every image as targets")
        return proposals, self._losses(region_features, proposals, targets)

    def region_features(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        """Features (R of all images, d) of every proposal, images one after another."""
        maps = [features[name] for name in self.in_features]
        # RoI pooling has no half-precision kernel on a CPU.
        with torch.autocast(maps[0].device.type, enabled=False):
            regions = self.box_pooler(
                [level.float() for level in maps], [p.proposal_boxes for p in proposals]
            )
        pooled: Tensor = self.box_head(regions)
        return pooled

    def class_scores(self, region_features: Tensor, proposals: list[Instances]) -> list[Tensor]:
        """Scores (R_i, C) of each image: the mean of the branches, or MIL scores if K = 0."""
        counts = [len(p) for p in proposals]
        if not self.refinement:
            return self.mil(region_features, counts)
        probabilities = [branch(region_features).softmax(dim=1) for branch in self.refinement]
        mean = torch.stack(probabilities).mean(dim=0)[:, : self.num_classes]
        return list(mean.split(counts))

    def _losses(
        self, region_features: Tensor, proposals: list[Instances], targets: list[Tensor]
    ) -> dict[str, Tensor]:
        counts = [len(p) for p in proposals]
        mil_scores = self.mil(region_features, counts)
        losses = {"loss_mil": self.mil.loss(mil_scores, targets)}
        scores = [s.detach() for s in mil_scores]
        for index, branch in enumerate(self.refinement):
            logits = list(branch(region_features).split(counts))
            loss = self._refinement_loss(logits, scores, proposals, targets)
            weight = self.first_branch_weight if index == 0 else 1.0
            losses[f"loss_refine_{index + 1}"] = weight * loss
            scores = [row.detach().softmax(dim=1)[:, : self.num_classes] for row in logits]
        for image_proposals, image_scores in zip(proposals, scores, strict=True):
            image_proposals.class_scores = image_scores
        return losses

    def _refinement_loss(
        self,
        logits: list[Tensor],
        scores: list[Tensor],
        proposals: list[Instances],
        targets: list[Tensor],
    ) -> Tensor:
        assert self.seed_miner is not None and self.refinement_loss is not None
        terms = []
        for row, score, image, labels in zip(logits, scores, proposals, targets, strict=True):
            boxes = image.proposal_boxes.tensor
            with torch.no_grad():
                seeds = self.seed_miner(boxes, score, labels)
            terms.append(self.refinement_loss(row, boxes, seeds))
        return torch.stack(terms).mean()

    def _detect(self, scores: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        results = []
        for image_scores, image in zip(scores, proposals, strict=True):
            if image.has("image_labels"):
                image_scores = image_scores.masked_fill(~image.image_labels, -torch.inf)
            results.append(self._detect_image(image_scores, image))
        return results

    def _detect_image(self, scores: Tensor, proposals: Instances) -> Instances:
        """NOTE: not detectron2's function, which takes the last column for background."""
        boxes = proposals.proposal_boxes.clone()
        boxes.clip(proposals.image_size)
        scores = scores.masked_fill(~boxes.nonempty()[:, None], -torch.inf)
        rows, classes = (scores > self.test_score_thresh).nonzero(as_tuple=True)
        candidates, values = boxes.tensor[rows], scores[rows, classes]
        keep = batched_nms(candidates, values, classes, self.test_nms_thresh)
        keep = keep[: self.test_topk_per_image]
        return Instances(
            proposals.image_size,
            pred_boxes=Boxes(candidates[keep]),
            scores=values[keep],
            pred_classes=classes[keep],
        )


def _build_region_layers(
    cfg: Any, input_shape: dict[str, ShapeSpec]
) -> tuple[ROIPooler, nn.Module]:
    """Pooler and box head; an empty ``MODEL.ROI_BOX_HEAD.NAME`` means :class:`WSODBoxHead`."""
    names, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
    missing = [name for name in names if name not in input_shape]
    if missing or not names:
        raise ValueError(
            f"MODEL.ROI_HEADS.IN_FEATURES is {list(names)}, the backbone gives {list(input_shape)}"
        )
    channels = {input_shape[name].channels for name in names}
    if len(channels) > 1:
        raise ValueError(
            f"MODEL.ROI_HEADS.IN_FEATURES {list(names)} differ in channels: {sorted(channels)}; "
            "name one level, or use a backbone with a feature pyramid"
        )
    pooler = ROIPooler(
        output_size=node.POOLER_RESOLUTION,
        scales=[1.0 / input_shape[name].stride for name in names],
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
    )
    shape = ShapeSpec(
        channels=channels.pop(), height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION
    )
    head: nn.Module = build_box_head(cfg, shape) if node.NAME else WSODBoxHead(cfg, shape)
    return pooler, head
