"""Mixed supervision in the head: what true boxes teach, and what they leave alone."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.data import ImageTags
from weaksam_d2.ops import encode_boxes
from weaksam_d2.wsod import BoxTargets, WSODROIHeads

SHAPES = {"concat": ShapeSpec(channels=4, stride=16)}
PROPOSALS: list[list[float]] = [
    [0.0, 0, 40, 40],
    [2, 2, 40, 40],
    [30, 30, 64, 64],
    [0, 0, 64, 64],
    [50, 0, 60, 9],
]
TRUE: list[list[float]] = [[0.0, 0, 40, 40], [30, 30, 60, 60]]


def make_heads(cfg: CfgNode, **keys: Any) -> WSODROIHeads:
    cfg.DATASETS.BOXES_TRAIN = ("boxes",)
    cfg.MODEL.WSOD.DROPOUT = 0.0
    for key, value in keys.items():
        setattr(cfg.MODEL.WSOD, key, value)
    torch.manual_seed(0)
    return WSODROIHeads(cfg, SHAPES).train()


def proposals(boxes: list[list[float]] = PROPOSALS) -> Instances:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances((64, 64), proposal_boxes=Boxes(tensor))


def targets(boxes: list[list[float]] = TRUE, classes: tuple[int, ...] = (2, 0)) -> BoxTargets:
    found = Instances((64, 64))
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.tensor(classes[: len(boxes)], dtype=torch.int64)
    return BoxTargets.from_sample({"image_id": "a", "full_instances": found}, num_classes=3)


def features(images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"concat": torch.rand(images, 4, 4, 4, generator=generator)}


def run(heads: WSODROIHeads, given: list[Any]) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = heads(
        None, features(len(given)), [proposals() for _ in given], given
    )[1]
    return losses


def test_losses_are_those_of_r_cnn_on_the_last_branch(wsod_cfg: CfgNode) -> None:
    """All five proposals are sampled; three touch a box by at least a half: 0, 1 and 2."""
    wsod_cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1.0
    heads = make_heads(wsod_cfg, REGRESSION="class_specific")
    losses = run(heads, [targets()])
    rows = heads.region_features(features(1), [proposals()])
    branch = heads._branches()[-1]
    labels = torch.tensor([2, 2, 0, 3, 3])
    expected = F.cross_entropy(branch(rows), labels)
    assert losses["loss_full_cls"].item() == pytest.approx(expected.item(), rel=1e-5)
    boxes, true = torch.tensor(PROPOSALS), torch.tensor(TRUE)
    total = 0.0
    for row, match in ((0, 0), (1, 0), (2, 1)):
        wanted = encode_boxes(true[match], boxes[row], heads.box_weights)
        deltas = branch.box_deltas(rows)
        assert deltas is not None
        found = deltas[row, labels[row]]
        total += F.smooth_l1_loss(found, wanted, beta=1.0, reduction="sum").item()
    assert losses["loss_full_box_reg"].item() == pytest.approx(total / 5, rel=1e-5)
    scores = heads.mil(rows, [5])
    image_loss = heads.mil.loss(scores, [torch.tensor([0, 2])])
    assert losses["loss_full_mil"].item() == pytest.approx(image_loss.item(), rel=1e-5)


def test_at_most_a_quarter_of_the_sample_is_foreground(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 4
    full = make_heads(wsod_cfg).full_supervision
    assert full is not None
    for _ in range(5):
        rows, labels, _ = full.sample(torch.tensor(PROPOSALS), targets())
        assert len(set(rows.tolist())) == len(rows) == 3
        assert sorted(labels.tolist())[1:] == [3, 3] and labels.min() in (0, 2)


def test_the_first_branches_learn_nothing_from_true_boxes(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg)
    losses = run(heads, [targets()])
    torch.stack(list(losses.values())).sum().backward()
    for branch in heads._branches()[:-1]:
        assert all(p.grad is not None and not p.grad.any() for p in branch.parameters())
    gradient = heads._branches()[-1].classification.weight.grad
    assert gradient is not None and gradient.any()
    assert all(losses[name] == 0 for name in losses if not name.startswith("loss_full"))


@pytest.mark.parametrize("kind", ["tags", "boxes", "both"])
@pytest.mark.parametrize("regression", ["none", "class_specific", "class_agnostic"])
def test_names_and_gradients_do_not_depend_on_what_a_rank_has(
    wsod_cfg: CfgNode, kind: str, regression: str
) -> None:
    heads = make_heads(wsod_cfg, REGRESSION=regression)
    tags = ImageTags(torch.tensor([1]))
    samples: dict[str, list[Any]] = {"tags": [tags], "boxes": [targets([])]}
    losses = run(heads, samples.get(kind, [tags, targets()]))
    assert ("loss_full_box_reg" in losses) == (regression != "none")
    assert {"loss_mil", "loss_refine_3", "loss_full_mil", "loss_full_cls"} < set(losses)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(loss == 0 for n, loss in losses.items() if kind == "tags" and "full" in n)


def test_each_kind_is_averaged_by_itself_and_the_boxes_weigh_mu(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, REGRESSION="class_specific")
    tags = ImageTags(torch.tensor([1]))
    alone = heads._losses(heads.region_features(features(1), [proposals()]), [proposals()], [tags])
    assert heads.full_supervision is not None
    for weight in (1.0, 0.5):
        heads.full_supervision.loss_weight = weight
        mixed = run(heads, [tags, targets(), targets()])
        assert all(mixed[name].item() == pytest.approx(alone[name].item()) for name in alone)
        if weight == 1.0:
            whole = {name: mixed[name].item() for name in mixed if name not in alone}
    assert all(mixed[n].item() == pytest.approx(v / 2, rel=1e-5) for n, v in whole.items())


def test_classes_out_of_range_name_the_image() -> None:
    with pytest.raises(ValueError, match=r"'a' has labels \[2, 3\], expected classes from 0 to 2"):
        targets(classes=(2, 3))
