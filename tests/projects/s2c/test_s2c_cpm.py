"""Self-labels and their loss (wsss.md, Sec. 6.4)."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from weaksam_d2.projects.s2c import SelfLabelRule, cpm_loss, multi_scale_cams, self_label

CAMS = torch.tensor([[[1, 0.8], [0.2, 0]], [[0, 0.6], [1, 0.4]]])
MASKS = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 1]]]).bool()
LOGITS = torch.tensor([[[4.0, 2], [-3, -5]], [[-4, 3], [5, 1]]])
CLASSES = torch.tensor([0, 1])


def label(rule: SelfLabelRule, **changes: Tensor) -> list[list[int]]:
    given = {"cams": CAMS, "masks": MASKS, "logits": LOGITS, "classes": CLASSES, **changes}
    return self_label(**given, rule=rule).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [[1, 2], [2, 2]]),
        ({"tau": None}, [[1, 2], [2, 2]]),
        ({"tau": 0.7}, [[1, 2], [2, 0]]),
        ({"tau": 0.7, "background": False}, [[1, 2], [2, 255]]),
        ({"sam_confidence": "sigmoid"}, [[1, 1], [2, 0]]),
        ({"sam_confidence": "sigmoid", "tau": None}, [[1, 1], [2, 2]]),
        ({"confidence": "sam"}, [[1, 2], [2, 2]]),
        ({"confidence": "none"}, [[1, 1], [2, 2]]),
    ],
)
def test_the_worked_example(settings: dict[str, object], expected: list[list[int]]) -> None:
    assert label(SelfLabelRule(**settings)) == expected


def test_the_label_of_a_class_is_its_number_and_one() -> None:
    assert label(SelfLabelRule(), classes=torch.tensor([4, 19])) == [[5, 20], [20, 20]]


def test_identical_masks_of_equal_confidence_go_to_the_lower_class() -> None:
    both = MASKS[:1].expand(2, 2, 2), LOGITS[:1].expand(2, 2, 2), CAMS[:1].expand(2, 2, 2)
    assert label(SelfLabelRule(), masks=both[0], logits=both[1], cams=both[2]) == [[1, 1], [0, 0]]


def test_a_mask_of_the_whole_crop_leaves_the_rest_to_the_other_class() -> None:
    masks = MASKS.clone()
    masks[0] = True
    logits = torch.tensor([[[4.0, 4], [4, 4]], [[-4, 9], [1, 1]]])
    assert label(SelfLabelRule(), masks=masks, logits=logits) == [[1, 2], [1, 1]]


def test_no_class_and_no_mask_teach_nothing() -> None:
    assert label(SelfLabelRule(), masks=torch.zeros_like(MASKS)) == [[255, 255]] * 2
    none = {"cams": CAMS[:0], "masks": MASKS[:0], "logits": LOGITS[:0], "classes": CLASSES[:0]}
    assert label(SelfLabelRule(), **none) == [[255, 255]] * 2


def test_an_empty_mask_proposes_nothing_beside_another() -> None:
    masks = MASKS.clone()
    masks[1] = False
    logits = LOGITS.clone()
    logits[1] = float("-inf")  # of a class that was not asked for
    assert label(SelfLabelRule(), masks=masks, logits=logits) == [[1, 1], [0, 0]]


def test_pixels_outside_of_the_image_teach_nothing() -> None:
    valid = torch.tensor([[True, True], [True, False]])
    assert label(SelfLabelRule(tau=0.7), valid=valid) == [[1, 2], [2, 255]]


def test_unknown_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="MODEL.S2C.CPM_CONF is 'cam'"):
        SelfLabelRule(confidence="cam")
    with pytest.raises(ValueError, match="MODEL.S2C.SAM_CONF is 'iou'"):
        SelfLabelRule(sam_confidence="iou")


def slow_loss(
    activations: Tensor, labels: Tensor, classes: list[Tensor], background: bool
) -> Tensor:
    """All channels at full size, and torch's own cross entropy."""
    maps = activations.relu()
    maps = maps / (maps.amax(dim=(-2, -1), keepdim=True) + 1e-5)
    maps = F.interpolate(maps, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    present = torch.stack([torch.zeros(maps.shape[1]).index_fill(0, row, 1.0) for row in classes])
    maps = maps * present[:, :, None, None]
    target = labels.clone()
    if background:
        maps = torch.cat([1 - maps.amax(dim=1, keepdim=True), maps], dim=1)
    else:
        target[labels != 255] -= 1
    return F.cross_entropy(maps, target, ignore_index=255)


@pytest.mark.parametrize(("num_classes", "expected"), [(1, 0.448437), (3, 0.897787)])
def test_the_worked_loss(num_classes: int, expected: float) -> None:
    activations = torch.zeros(1, num_classes, 2, 2)
    activations[0, 0] = torch.tensor([[1, 0.5], [0.25, 0]])
    labels = torch.tensor([[[1, 1], [0, 0]]])
    loss = cpm_loss(activations, labels, [torch.tensor([0])])
    assert float(loss) == pytest.approx(expected, abs=1e-5)  # the maximum is divided by 1 + 1e-5


@pytest.mark.parametrize("background", [True, False])
def test_loss_and_gradient_equal_all_channels(background: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(3, 5, 4, 6, generator=generator)
    classes = [torch.tensor([1, 4]), torch.tensor([0]), torch.tensor([], dtype=torch.int64)]
    labels = torch.full((3, 16, 24), 255)
    labels[0, :8], labels[0, 8:12] = 2, 5
    labels[1, :, :20] = 1
    if background:
        labels[0, :, :5], labels[1, 4:6] = 0, 0
    given = [activations.clone().requires_grad_() for _ in range(2)]
    ours = cpm_loss(given[0], labels, classes, background=background)
    theirs = slow_loss(given[1], labels, classes, background)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(given[0].grad, given[1].grad)


def test_nothing_to_learn_is_zero_and_stays_in_the_graph() -> None:
    activations = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = cpm_loss(activations, torch.full((1, 6, 6), 255), [torch.tensor([0])])
    loss.backward()
    assert float(loss.detach()) == 0 and not activations.grad.any()


def test_cams_are_added_over_scales_and_divided_by_their_maximum() -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[0, 0, 2, 5] = 1.0
    images[1, 1] = -1.0
    seen = []

    def activate(views: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(tuple(views.shape[-2:]))
        return F.avg_pool2d(views, 2)

    classes = [torch.tensor([0, 1]), torch.tensor([1])]
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    first, second = multi_scale_cams(activate, images, classes, scales=(0.5, 1, 1.5), valid=valid)
    assert seen == [(4, 4), (8, 8), (12, 12)]
    assert first.shape == (2, 8, 8) and second.shape == (1, 8, 8)
    assert float(first[0].max()) == pytest.approx(1, abs=1e-3)
    row, column = divmod(int(first[0].argmax()), 8)
    assert abs(row - 2) <= 1 and abs(column - 5) <= 1
    assert not first[1].any() and not second.any()  # a map that is nowhere positive is zero


def test_cams_ignore_what_is_outside_of_the_image() -> None:
    images = torch.ones(1, 3, 4, 4)
    images[..., 2:] = 9.0
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[..., 2:] = False
    (cam,) = multi_scale_cams(
        lambda views: views, images, [torch.tensor([0])], scales=(1.0,), valid=valid
    )
    torch.testing.assert_close(cam[0, :, :2], torch.full((4, 2), 1 / (1 + 1e-5)))
    assert not cam[0, :, 2:].any()
