"""The losses of single regions add up to detectron2's, whatever its options."""

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from weaksam_d2.retrain import region_losses
from weaksam_d2.retrain.region_losses import region_scores

CLASSES = 3
TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))


def make_layers(**options: Any) -> FastRCNNOutputLayers:
    return FastRCNNOutputLayers(
        ShapeSpec(channels=8), box2box_transform=TRANSFORM, num_classes=CLASSES, **options
    )


def random_case(seed: int = 0) -> tuple[Tensor, Tensor, list[Instances]]:
    """Logits, deltas and the regions of two images; the last one without an object."""
    generator = torch.Generator().manual_seed(seed)
    regions = []
    for count in (6, 5):
        corner = torch.rand(count, 2, generator=generator) * 20
        boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 9], 1)
        fields = {"proposal_boxes": Boxes(boxes), "gt_classes": torch.full((count,), CLASSES)}
        if not regions:
            fields["gt_classes"] = torch.randint(0, CLASSES + 1, (count,), generator=generator)
            fields["gt_boxes"] = Boxes(boxes + torch.rand(count, 4, generator=generator))
        regions.append(Instances((40, 40), **fields))
    logits = torch.randn(11, CLASSES + 1, generator=generator)
    return logits, torch.randn(11, 4 * CLASSES, generator=generator), regions


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_their_sum_over_all_regions_is_the_stock_loss(kind: str, agnostic: bool) -> None:
    logits, deltas, regions = random_case()
    deltas = deltas[:, :4] if agnostic else deltas
    for beta in (0.0, 0.5):
        layers = make_layers(
            box_reg_loss_type=kind, cls_agnostic_bbox_reg=agnostic, smooth_l1_beta=beta
        )
        found = region_losses(layers, (logits, deltas), regions)
        with EventStorage():
            stock = layers.losses((logits, deltas), regions)
        torch.testing.assert_close(found.classification.mean(), stock["loss_cls"])
        torch.testing.assert_close(found.box.sum() / 11, stock["loss_box_reg"])
        assert found.foreground.tolist() == (found.labels < CLASSES).tolist()
        assert not found.box[~found.foreground].any()


def test_each_region_has_the_loss_that_it_has_alone() -> None:
    logits, deltas, regions = random_case(1)
    layers = make_layers()
    found = region_losses(layers, (logits, deltas), regions)
    place = 0
    for image in regions:
        for row in range(len(image)):
            rows = slice(place, place + 1)
            alone = region_losses(layers, (logits[rows], deltas[rows]), [image[row]])
            torch.testing.assert_close(found.classification[rows], alone.classification)
            torch.testing.assert_close(found.box[rows], alone.box)
            place += 1


def test_gradients_reach_logits_and_deltas_even_without_an_object() -> None:
    logits, deltas, regions = random_case()
    logits, deltas = logits[6:].requires_grad_(), deltas[6:].requires_grad_()
    found = region_losses(make_layers(), (logits, deltas), regions[1:])
    (found.classification.sum() + found.box.sum()).backward()
    assert logits.grad is not None and logits.grad.any()
    assert deltas.grad is not None and not deltas.grad.any()


def test_losses_are_float32_under_bfloat16() -> None:
    logits, deltas, regions = random_case()
    layers = make_layers()
    expected = region_losses(
        layers, (logits.bfloat16().float(), deltas.bfloat16().float()), regions
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = region_losses(layers, (logits.bfloat16(), deltas.bfloat16()), regions)
    assert found.classification.dtype == found.box.dtype == torch.float32
    torch.testing.assert_close(found.classification, expected.classification)
    torch.testing.assert_close(found.box, expected.box)


def test_scores_come_from_images_with_objects_and_must_be_there() -> None:
    _, _, regions = random_case()
    foreground = torch.cat([one.gt_classes for one in regions]) < CLASSES
    with pytest.raises(ValueError, match="gt_score_norm"):
        region_scores(regions, foreground)
    regions[0].gt_score_norm = torch.linspace(0, 1, 6)
    assert torch.equal(region_scores(regions, foreground)[:6], torch.linspace(0, 1, 6))
    assert len(region_scores(regions, foreground)) == 11


def test_an_unknown_box_loss_is_refused() -> None:
    logits, deltas, regions = random_case()
    layers = make_layers(box_reg_loss_type="l7")
    with pytest.raises(ValueError, match="BBOX_REG_LOSS_TYPE is 'l7'"):
        region_losses(layers, (logits, deltas), regions)
