"""The weakly supervised meta architecture: what a batch may hold, steps, inference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from weaksam_d2.wsod import WSODRCNN

BOXES = [[0.0, 0, 40, 40], [10, 10, 60, 60], [0, 0, 64, 64]]
Sample = Callable[..., dict[str, Any]]


@pytest.fixture
def model(wsod_cfg: CfgNode) -> WSODRCNN:
    torch.manual_seed(0)
    return build_model(wsod_cfg)


def test_two_steps_train_the_heads_and_leave_the_frozen_network(
    model: WSODRCNN, sample: Sample
) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = [sample(BOXES, [0]), sample(BOXES[:1], [])]
    for _ in range(2):
        losses = model.train()(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    after = model.state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    heads = {k for k in before if k.startswith("roi_heads.")}
    assert same == before.keys() - heads


def test_refinement_parameters_have_the_name_that_the_optimizer_looks_for(
    model: WSODRCNN,
) -> None:
    names = [n for n, _ in model.named_parameters() if n.startswith("roi_heads.refinement.")]
    assert len(names) == 3 * 2


def test_inference_gives_boxes_in_the_original_image(model: WSODRCNN, sample: Sample) -> None:
    given = sample(BOXES, [0])
    given["height"] = given["width"] = 128
    found = model.eval()([given])[0]["instances"]
    assert found.image_size == (128, 128) and len(found)
    twice = {tuple(2 * value for value in box) for box in BOXES}
    assert {tuple(box) for box in found.pred_boxes.tensor.tolist()} <= twice


@pytest.mark.parametrize("key", ["instances", "annotations", "targets", "sem_seg"])
def test_a_batch_with_ground_truth_is_refused(model: WSODRCNN, sample: Sample, key: str) -> None:
    batch = [sample(BOXES, [0]), {**sample(BOXES, [0]), key: Instances((64, 64))}]
    with pytest.raises(ValueError, match=f"'a' brings '{key}'"):
        model.train()(batch)


def test_proposals_with_ground_truth_are_refused(model: WSODRCNN, sample: Sample) -> None:
    given = sample(BOXES, [0])
    given["proposals"].gt_boxes = Boxes(torch.tensor(BOXES))
    with pytest.raises(ValueError, match="gt_boxes"):
        model.train()([given])


@pytest.mark.parametrize("missing", ["image_labels", "proposals"])
def test_a_sample_without_labels_or_proposals_is_refused(
    model: WSODRCNN, sample: Sample, missing: str
) -> None:
    given = sample(BOXES, [0])
    del given[missing]
    with pytest.raises(ValueError, match="image 'a' needs"):
        model.train()([given])


def test_true_boxes_are_refused_unless_the_config_names_their_set(
    model: WSODRCNN, wsod_cfg: CfgNode, sample: Sample
) -> None:
    full = Instances((64, 64), gt_boxes=Boxes(torch.tensor(BOXES)), gt_classes=torch.arange(3))
    given = {**sample(BOXES, [0]), "full_instances": full}
    with pytest.raises(ValueError, match="'full_instances'.*DATASETS.BOXES_TRAIN"):
        model.train()([given])
    wsod_cfg.DATASETS.BOXES_TRAIN = ("boxes",)
    losses = build_model(wsod_cfg).train()([sample(BOXES, [0]), given])
    assert {"loss_mil", "loss_full_mil", "loss_full_cls"} < set(losses)
    wsod_cfg.MODEL.WSOD.NUM_REFINEMENTS = 0
    with pytest.raises(ValueError, match="NUM_REFINEMENTS is 0"):
        build_model(wsod_cfg)


def test_labels_out_of_range_are_refused(model: WSODRCNN, sample: Sample) -> None:
    with pytest.raises(ValueError, match=r"\[3\], expected classes from 0 to 2"):
        model.train()([sample(BOXES, [3])])


def test_open_labels_leave_unknown_classes_out_of_the_image_loss(
    wsod_cfg: CfgNode, sample: Sample
) -> None:
    wsod_cfg.MODEL.WSOD.DROPOUT = 0.0
    losses = []
    for open_labels, negative in ((False, []), (True, [1, 2]), (True, [1]), (True, [])):
        wsod_cfg.MODEL.WSOD.OPEN_LABELS = open_labels
        torch.manual_seed(0)
        model = build_model(wsod_cfg).train()
        given = {**sample(BOXES, [0]), "image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
        given["negative_labels"] = torch.tensor(negative, dtype=torch.int64)
        losses.append(model([given])["loss_mil"].item())
    assert losses[0] == losses[1] > losses[2] > losses[3]


def test_a_class_in_two_sets_is_refused(model: WSODRCNN, sample: Sample) -> None:
    given = {**sample(BOXES, [1]), "negative_labels": [1]}
    with pytest.raises(ValueError, match="'a' has class 1 in image_labels and in negative_labels"):
        model.train()([given])


def test_the_label_filter_cuts_absent_classes(wsod_cfg: CfgNode, sample: Sample) -> None:
    wsod_cfg.MODEL.WSOD.TEST_LABEL_FILTER = True
    model = build_model(wsod_cfg).eval()
    given = sample(BOXES, [1])
    found = model([given])[0]["instances"]
    assert set(found.pred_classes.tolist()) == {1}
    assert not given["proposals"].has("image_labels")
    del given["image_labels"]
    with pytest.raises(ValueError, match="TEST_LABEL_FILTER needs the labels of image 'a'"):
        model([given])


def test_without_the_filter_labels_do_not_matter_in_inference(
    model: WSODRCNN, sample: Sample
) -> None:
    given = sample(BOXES, [1])
    found = model.eval()([given])[0]["instances"]
    assert set(found.pred_classes.tolist()) == {0, 1, 2}


def test_a_proposal_network_is_refused(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.LOAD_PROPOSALS = False
    with pytest.raises(ValueError, match="LOAD_PROPOSALS"):
        build_model(wsod_cfg)


def test_both_switches_of_precomputed_proposals_are_needed(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    wsod_cfg.MODEL.RPN.IN_FEATURES = ["concat"]
    with pytest.raises(ValueError, match="PrecomputedProposals, not to a RPN"):
        build_model(wsod_cfg)


@pytest.mark.parametrize("labels", [[0, 2], []])
def test_visualization_needs_no_ground_truth(
    wsod_cfg: CfgNode, sample: Sample, labels: list[int]
) -> None:
    wsod_cfg.VIS_PERIOD = 1
    model = build_model(wsod_cfg).train()
    with EventStorage() as storage:
        model([sample(BOXES, labels)])
        names = [name for name, _, _ in storage._vis_data]
    assert names == ["best proposal of each tagged class"]


def test_vgg_with_two_fully_connected_layers_takes_a_step(
    wsod_cfg: CfgNode, sample: Sample
) -> None:
    wsod_cfg.MODEL.BACKBONE.NAME = "build_vgg_backbone"
    wsod_cfg.MODEL.ROI_HEADS.IN_FEATURES = ["plain5"]
    wsod_cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIPool"
    wsod_cfg.MODEL.WSOD.NUM_FC = 2
    model = build_model(wsod_cfg).train()
    sum(model([sample(BOXES, [0])]).values()).backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert without == frozen
    assert {n.split(".")[2] for n in frozen} == {"plain1", "plain2"}
