"""Proposal clusters as a refinement loss, by its name."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from weaksam_d2.wsod import PCL, GraphCenters, WSODROIHeads, build_refinement_loss


def test_config_and_keywords_make_the_same_loss(wsod_cfg: CfgNode) -> None:
    node = wsod_cfg.MODEL.WSOD
    node.REFINEMENT_LOSS, node.REFINE_NORM, node.LOG_EPS = "PCL", "weights", 0.0
    node.PCL.CLUSTERS, node.PCL.EDGE_IOU, node.PCL.MAX_CENTERS = 4, 0.3, 2
    built = vars(build_refinement_loss(wsod_cfg))
    expected = vars(PCL(centers=GraphCenters(), log_eps=0.0, norm="weights"))
    miner = built.pop("seed_miner")
    expected.pop("seed_miner")
    assert built == expected
    assert vars(miner) == vars(GraphCenters(clusters=4, edge_iou=0.3, max_centers=2))


def test_clusters_find_their_own_seeds(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.REFINEMENT_LOSS, wsod_cfg.MODEL.WSOD.SEED_MINER = "PCL", "TopScoring"
    heads = WSODROIHeads(wsod_cfg, {"concat": ShapeSpec(channels=4, stride=16)})
    assert isinstance(heads.seed_miner, GraphCenters)


def test_far_proposals_are_ignored_near_ones_are_background() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 3], [20, 20, 30, 30]])
    loss = PCL(centers=GraphCenters())
    seeds = GraphCenters()(boxes, torch.tensor([[0.6], [0.1], [0.1], [0.0]]), torch.tensor([0]))
    labels, weights, _ = loss.assign(boxes, seeds, 1)
    assert labels.tolist() == [0, 0, 1, 1]
    assert weights.tolist() == pytest.approx([0.6, 0.6, 0.6, 0.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: GraphCenters(clusters=0),
        lambda: GraphCenters(edge_iou=1.0),
        lambda: PCL(centers=GraphCenters(), ignore_iou=0.6),
        lambda: PCL(centers=GraphCenters(), norm="mean"),
    ],
)
def test_values_out_of_range_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"MODEL\.WSOD"):
        make()
