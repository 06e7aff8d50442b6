"""The ROI head of weakly supervised detection: all proposals, image labels, no boxes."""

from typing import Any, cast

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from weaksam_d2.data import ImageTags
from weaksam_d2.ops.boxes import clip_boxes, encode_boxes
from weaksam_d2.ops.nms import batched_nms
from weaksam_d2.ops.refinement import seed_box_loss

from .box_head import WSODBoxHead
from .dropblock import ConcreteDropBlock, build_drop_block
from .full_supervision import BoxTargets, FullSupervision, build_full_supervision
from .mil_head import MILOutputLayers
from .refinement import RefinementBranch, RefinementLoss, build_refinement_loss
from .seed_miner import SeedMiner, build_seed_miner

__all__ = ["WSODROIHeads"]

BoxWeights = tuple[float, float, float, float]
# A proposal that a class of unknown presence claims above this score teaches nothing.
UNKNOWN_SCORE = 0.5  # extras.md, Sec. 5


@ROI_HEADS_REGISTRY.register()
class WSODROIHeads(ROIHeads):
    """Two MIL streams and K refinement branches over all proposals in file order.

    In training a target is the int64 (m,) tensor of an image's classes, or its ``ImageTags``; the
    losses are ``loss_mil`` and ``loss_refine_1`` ... ``loss_refine_K``, with regression also
    ``loss_box_reg_k``, means over the images of the batch. The branches are the parameters
    ``refinement.*`` (``MODEL.WSOD.REFINE_LR_MULT``).

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
        roi_weight: str = "seed",
        regression_weight: float = 1.0,
        box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0),
        objectness_scale: bool = False,
        drop_block: ConcreteDropBlock | None = None,
        full_supervision: FullSupervision | None = None,
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
            first_branch_weight: factor of ``loss_refine_1`` and ``loss_box_reg_1``.
            roi_weight: a proposal weighs the score of its ``seed``, or the ``image`` score of the
                seed's class.
            regression_weight: factor of the box losses.
            box_weights: of the four numbers that say where a box is.
            objectness_scale: pooled regions are multiplied by 1 + the field ``objectness`` (R,)
                of the proposals.
            drop_block: hides parts of the pooled regions in training.
            full_supervision: targets may be ``BoxTargets`` of fully labelled images.
            test_score_thresh: a detection's score is above this.
            test_nms_thresh: IoU above which the lower score of a class is suppressed.
            test_topk_per_image: detections of an image over all classes.

        Raises:
            ValueError: if there are branches but no miner or no loss; for an unknown option.
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
        if roi_weight not in ("seed", "image"):
            raise ValueError(f"MODEL.WSOD.ROI_WEIGHT is {roi_weight!r}, use seed or image")
        self.in_features = list(in_features)
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.mil = mil
        self.refinement = nn.ModuleList(refinement)
        self.seed_miner = seed_miner
        self.refinement_loss = refinement_loss
        self.first_branch_weight = first_branch_weight
        self.roi_weight = roi_weight
        self.regression_weight = regression_weight
        self.box_weights = box_weights
        self.objectness_scale = objectness_scale
        self.drop_block = drop_block
        self.full_supervision = full_supervision
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.WSOD``, ``MODEL.ROI_HEADS`` and the pooler of ``MODEL.ROI_BOX_HEAD``."""
        node, num_classes = cfg.MODEL.WSOD, cfg.MODEL.ROI_HEADS.NUM_CLASSES
        box_pooler, box_head, channels = _build_region_layers(cfg, input_shape)
        size: int = cast(Any, box_head).output_shape.channels
        branches = _build_branches(cfg, size)
        loss = build_refinement_loss(cfg) if branches else None
        miner = loss.seed_miner or build_seed_miner(cfg) if loss is not None else None
        return {
            "num_classes": num_classes,
            "in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": box_pooler,
            "box_head": box_head,
            "mil": MILOutputLayers(
                size,
                num_classes=num_classes,
                background_column=node.BACKGROUND_COLUMN,
                loss_reduce=node.IMAGE_LOSS_REDUCE,
                eps=node.CLAMP_EPS,
                init_std=node.INIT_STD,
            ),
            "refinement": branches,
            "seed_miner": miner,
            "refinement_loss": loss,
            "first_branch_weight": node.FIRST_BRANCH_WEIGHT,
            "roi_weight": node.ROI_WEIGHT,
            "regression_weight": node.REGRESSION_WEIGHT,
            "box_weights": tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            "objectness_scale": node.OBJECTNESS_SCALE,
            "drop_block": build_drop_block(cfg, channels),
            "full_supervision": build_full_supervision(cfg),
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Tensor | ImageTags | BoxTargets] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Losses in training, detections otherwise.

        In training the proposals get a field ``class_scores`` (R, C), what the head believes of
        them; in inference a field ``image_labels``, bool (R, C), cuts absent classes before the
        top-k.
        """
        del images
        region_features = self.region_features(features, proposals)
        if not self.training:
            scores = self.class_scores(region_features, proposals)
            boxes = self.predicted_boxes(region_features, proposals)
            return self.detect(scores, boxes, proposals), {}
        if targets is None:
            raise ValueError("training needs the image-level labels of every image as targets")
        if self.full_supervision is None:
            weak = cast(list[Tensor | ImageTags], targets)
            return proposals, self._losses(region_features, proposals, weak)
        last = self._branches()[-1]
        losses = self.full_supervision.losses(
            region_features,
            proposals,
            targets,
            mil=self.mil,
            branch=last,
            weak_losses=self._losses,
        )
        return proposals, losses

    def region_features(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        """Features (R of all images, d) of every proposal, images one after another."""
        maps = [features[name] for name in self.in_features]
        # RoI pooling has no half-precision kernel on a CPU.
        with torch.autocast(maps[0].device.type, enabled=False):
            regions = self.box_pooler(
                [level.float() for level in maps], [p.proposal_boxes for p in proposals]
            )
        if self.objectness_scale:
            objectness = torch.cat([p.objectness for p in proposals])
            regions = regions * (1 + objectness.to(regions))[:, None, None, None]
        if self.drop_block is not None:
            regions = self.drop_block(regions)
        pooled: Tensor = self.box_head(regions)
        return pooled

    def class_scores(self, region_features: Tensor, proposals: list[Instances]) -> list[Tensor]:
        """Scores (R_i, C) of each image: the mean of the branches, or MIL scores if K = 0."""
        counts = [len(p) for p in proposals]
        if not self.refinement:
            scores = self.mil(region_features, counts)
            return [image_scores[:, : self.num_classes] for image_scores in scores]
        probabilities = [branch(region_features).softmax(dim=1) for branch in self.refinement]
        mean = torch.stack(probabilities).mean(dim=0)[:, : self.num_classes]
        return list(mean.split(counts))

    def predicted_boxes(self, region_features: Tensor, proposals: list[Instances]) -> list[Tensor]:
        """Boxes (R_i, C, 4) of each image, not clipped: the mean of the branches' regression.

        Without regression, the proposals for every class. weaksam.md, Sec. 5.5 and App. D 11.
        """
        found = [branch.box_deltas(region_features) for branch in self._branches()]
        deltas = [d for d in found if d is not None]
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        if deltas:
            mean = torch.stack(deltas).mean(dim=0).flatten(start_dim=1)
            transform = Box2BoxTransform(self.box_weights)
            decoded = transform.apply_deltas(mean, boxes).unflatten(1, (-1, 4))
        else:
            decoded = boxes[:, None]
        return list(decoded.expand(-1, self.num_classes, -1).split([len(p) for p in proposals]))

    def _branches(self) -> list[RefinementBranch]:
        return [cast(RefinementBranch, branch) for branch in self.refinement]

    def _losses(
        self,
        region_features: Tensor,
        proposals: list[Instances],
        targets: list[Tensor | ImageTags],
    ) -> dict[str, Tensor]:
        counts = [len(p) for p in proposals]
        tags = [t if isinstance(t, ImageTags) else ImageTags(t) for t in targets]
        mil_scores = self.mil(region_features, counts)
        losses = {"loss_mil": self.mil.loss(mil_scores, tags)}
        image_scores = self.mil.image_scores(mil_scores).detach()
        scores = [s.detach()[:, : self.num_classes] for s in mil_scores]
        for number, branch in enumerate(self._branches(), start=1):
            weight = self.first_branch_weight if number == 1 else 1.0
            logits = branch(region_features).split(counts)
            deltas = branch.box_deltas(region_features)
            parts = [None] * len(counts) if deltas is None else deltas.split(counts)
            terms = [
                self._teach(*image)
                for image in zip(logits, parts, scores, image_scores, proposals, tags, strict=True)
            ]
            losses[f"loss_refine_{number}"] = weight * torch.stack([t[0] for t in terms]).mean()
            if deltas is not None:
                box_loss = torch.stack([t[1] for t in terms]).mean()
                losses[f"loss_box_reg_{number}"] = weight * self.regression_weight * box_loss
            scores = [row.detach().softmax(dim=1)[:, : self.num_classes] for row in logits]
        for image_proposals, last in zip(proposals, scores, strict=True):
            image_proposals.class_scores = last
        return losses

    def _teach(
        self,
        logits: Tensor,
        deltas: Tensor | None,
        scores: Tensor,
        image_scores: Tensor,
        proposals: Instances,
        tags: ImageTags,
    ) -> tuple[Tensor, Tensor]:
        """Class loss and box loss of one image and one branch, from the scores before it."""
        assert self.seed_miner is not None and self.refinement_loss is not None
        boxes, count = proposals.proposal_boxes.tensor, self.num_classes
        with torch.no_grad():
            seeds = self.seed_miner(boxes, scores, tags.present)
            if self.roi_weight == "image":
                seeds = seeds._replace(scores=image_scores[seeds.classes])
            assignment = self.refinement_loss.assign(boxes, seeds, count)
            if tags.unknown is not None:
                claimed = (scores * tags.unknown).amax(dim=1) > UNKNOWN_SCORE
                weights = assignment.weights.masked_fill(claimed, 0)
                assignment = assignment._replace(weights=weights)
        loss = self.refinement_loss.loss(logits, assignment, len(seeds.boxes))
        if deltas is None:
            return loss, loss
        if len(seeds.boxes) == 0:
            return loss, deltas.sum() * 0
        targets = encode_boxes(seeds.boxes[assignment.index], boxes, self.box_weights)
        weights = assignment.weights.masked_fill(assignment.labels == count, 0)
        return loss, seed_box_loss(deltas, targets, assignment.labels, weights)

    def detect(
        self, scores: list[Tensor], boxes: list[Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """Detections of each image from scores (R_i, C) and boxes (R_i, C, 4), not yet clipped.

        ``proposals`` give the size of the image and, in a field ``image_labels``, bool (R_i, C),
        which classes may be detected.
        """
        results = []
        for image_scores, image_boxes, image in zip(scores, boxes, proposals, strict=True):
            if image.has("image_labels"):
                image_scores = image_scores.masked_fill(~image.image_labels, -torch.inf)
            results.append(self._detect_image(image_scores, image_boxes, image.image_size))
        return results

    def _detect_image(
        self, scores: Tensor, boxes: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """Scores (R, C) and boxes (R, C, 4) of one image to detections.

        NOTE: not detectron2's function, which takes the last column for background.
        """
        boxes = clip_boxes(boxes, image_size)
        nonempty = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        rows, classes = ((scores > self.test_score_thresh) & nonempty).nonzero(as_tuple=True)
        candidates, values = boxes[rows, classes], scores[rows, classes]
        keep = batched_nms(candidates, values, classes, self.test_nms_thresh)
        keep = keep[: self.test_topk_per_image]
        return Instances(
            image_size,
            pred_boxes=Boxes(candidates[keep]),
            scores=values[keep],
            pred_classes=classes[keep],
        )


def _build_branches(cfg: Any, size: int) -> list[RefinementBranch]:
    """K branches; boxes that do not depend on the class come from the last one only."""
    node, count = cfg.MODEL.WSOD, cfg.MODEL.WSOD.NUM_REFINEMENTS
    if count < 0 or (count == 0 and node.REGRESSION != "none"):
        raise ValueError(
            f"MODEL.WSOD.NUM_REFINEMENTS must be >= 0, and >= 1 with REGRESSION, got {count} "
            f"with REGRESSION {node.REGRESSION!r}"
        )
    last_only = node.REGRESSION == "class_agnostic"
    return [
        RefinementBranch(
            size,
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            init_std=node.INIT_STD,
            regression="none" if last_only and k < count - 1 else node.REGRESSION,
        )
        for k in range(count)
    ]


def _build_region_layers(
    cfg: Any, input_shape: dict[str, ShapeSpec]
) -> tuple[ROIPooler, nn.Module, int]:
    """Pooler, box head (:class:`WSODBoxHead` if none is named) and channels of a region."""
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
    count = channels.pop()
    shape = ShapeSpec(channels=count, height=node.POOLER_RESOLUTION, width=node.POOLER_RESOLUTION)
    head: nn.Module = build_box_head(cfg, shape) if node.NAME else WSODBoxHead(cfg, shape)
    return pooler, head, count
