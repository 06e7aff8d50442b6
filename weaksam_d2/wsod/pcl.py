"""Proposal cluster learning: seeds are the centers of clusters, and clusters learn together."""

from typing import Any

from detectron2.config import configurable
from torch import Tensor

from weaksam_d2.ops.pcl import cluster_loss, graph_centers
from weaksam_d2.ops.seeds import Assignment, Seeds

from .refinement import REFINEMENT_LOSS_REGISTRY, WeightedCrossEntropy

__all__ = ["PCL", "GraphCenters"]


class GraphCenters:
    """The centers of the clusters that a class's best proposals form (weaksam.md, 5.4, ``pcl``)."""

    def __init__(self, *, clusters: int = 3, edge_iou: float = 0.4, max_centers: int = 5) -> None:
        """Set options.

        Args:
            clusters: score clusters of k-means; the proposals of the top one are graph nodes.
            edge_iou: nodes are neighbors above this IoU.
            max_centers: of each class.
        """
        if clusters < 1 or max_centers < 1 or not 0 <= edge_iou < 1:
            raise ValueError(
                "MODEL.WSOD.PCL needs CLUSTERS >= 1, MAX_CENTERS >= 1 and EDGE_IOU in [0, 1), "
                f"got {clusters}, {max_centers} and {edge_iou}"
            )
        self.clusters = clusters
        self.edge_iou = edge_iou
        self.max_centers = max_centers

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Seeds:
        """As :meth:`SeedMiner.__call__`."""
        return graph_centers(
            boxes,
            scores,
            labels,
            clusters=self.clusters,
            edge_iou=self.edge_iou,
            max_centers=self.max_centers,
        )


@REFINEMENT_LOSS_REGISTRY.register()
class PCL(WeightedCrossEntropy):
    """The members of a proposal cluster learn their class by their mean probability.

    Source: PCL (Tang et al., 2018); weaksam.md, Sec. 5.4.
    """

    node = "MODEL.WSOD.PCL"

    @configurable
    def __init__(
        self,
        *,
        centers: GraphCenters,
        fg_iou: float = 0.5,
        ignore_iou: float = 0.1,
        fg_strict: bool = False,
        log_eps: float = 1e-6,
        norm: str = "rois",
    ) -> None:
        """Set options.

        Args:
            centers: finds the seeds.
            fg_iou: a proposal is a member of its center's cluster from this IoU on.
            ignore_iou: a proposal below this IoU has weight 0.
            fg_strict: a member's IoU is above ``fg_iou``.
            log_eps: added to probabilities before the logarithm.
            norm: as for ``WeightedCrossEntropy``.
        """
        super().__init__(
            fg_iou=fg_iou, ignore_iou=ignore_iou, fg_strict=fg_strict, log_eps=log_eps, norm=norm
        )
        self.seed_miner = centers

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.PCL``, and ``FG_IOU_STRICT``, ``LOG_EPS`` and ``REFINE_NORM``."""
        node = cfg.MODEL.WSOD
        return {
            "centers": GraphCenters(
                clusters=node.PCL.CLUSTERS,
                edge_iou=node.PCL.EDGE_IOU,
                max_centers=node.PCL.MAX_CENTERS,
            ),
            "fg_iou": node.PCL.FG_IOU,
            "ignore_iou": node.PCL.IGNORE_IOU,
            "fg_strict": node.FG_IOU_STRICT,
            "log_eps": node.LOG_EPS,
            "norm": node.REFINE_NORM,
        }

    def loss(self, logits: Tensor, assignment: Assignment, num_seeds: int) -> Tensor:
        """As :meth:`RefinementLoss.loss`."""
        return cluster_loss(logits, assignment, num_seeds, log_eps=self.log_eps, norm=self.norm)
