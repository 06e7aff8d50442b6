"""Several views of an image: aligned proposals, one running mean, one selection."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from weaksam_d2.ops import image_to_view
from weaksam_d2.wsod import WSODRCNN, WSODRCNNWithTTA

HEIGHT, WIDTH = 48, 80
BOXES = [[0.0, 0, 40, 40], [10, 10, 60, 44], [30, 5, 80, 48], [2, 20, 30, 46], [0, 0, 80, 48]]
MIST_SIZES = (96, 60, 72, 86, 108, 125, 150)  # seven, as 800 and 480 ... 1200


def original(boxes: list[list[float]] = BOXES, **extra: Any) -> dict[str, Any]:
    """A sample as the loader gives it: the image and its proposals, not resized."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    proposals = Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(torch.tensor(boxes).float()))
    proposals.objectness_logits = -torch.arange(len(boxes)).float()
    return {
        "image_id": "a",
        "image": torch.from_numpy(pixels),
        "height": HEIGHT,
        "width": WIDTH,
        "proposals": proposals,
        **extra,
    }


def mirrored(sample: dict[str, Any]) -> dict[str, Any]:
    boxes = image_to_view(
        sample["proposals"].proposal_boxes.tensor, (HEIGHT, WIDTH), (HEIGHT, WIDTH), flipped=True
    )
    proposals = Instances((HEIGHT, WIDTH), proposal_boxes=Boxes(boxes))
    return {**sample, "image": sample["image"].flip(2), "proposals": proposals}


def resized(sample: dict[str, Any], min_size: int) -> dict[str, Any]:
    """The sample as a loader without test-time augmentation gives it."""
    shape = ResizeShortestEdge.get_output_shape(HEIGHT, WIDTH, min_size, 1000)
    transform = ResizeTransform(HEIGHT, WIDTH, *shape)
    pixels = transform.apply_image(sample["image"].permute(1, 2, 0).numpy())
    boxes = transform.apply_box(sample["proposals"].proposal_boxes.tensor.numpy())
    proposals = Instances(shape, proposal_boxes=Boxes(torch.from_numpy(boxes).float()))
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return {**sample, "image": image, "proposals": proposals}


def rows(found: Instances) -> Tensor:
    """Detections as sorted (class, box, score) rows, to compare sets."""
    table = torch.cat(
        [found.pred_classes[:, None].float(), found.pred_boxes.tensor, found.scores[:, None]], dim=1
    )
    return torch.tensor(sorted(table.tolist()))


def trained_looking(cfg: CfgNode) -> WSODRCNN:
    """A model whose scores and boxes differ between proposals and views."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for name, parameter in model.roi_heads.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02 if "delta" in name or "box" in name else 0.3)
    return model


class KnownScores(WSODRCNN):
    """A detector that says what the test tells it, view after view."""

    def __init__(self, scores: list[Tensor], boxes: list[Tensor], selecting: Any) -> None:
        nn.Module.__init__(self)
        self.said = zip(scores, boxes, strict=True)
        self.test_label_filter = False
        self.roi_heads = selecting.roi_heads

    def score_proposals(self, batched_inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
        scores, boxes = next(self.said)
        return [scores], [boxes]


def test_scores_and_unflipped_boxes_of_a_proposal_are_averaged(wsod_cfg: CfgNode) -> None:
    """The hand-worked example: .8 and .6 make .7, and the mirrored box is the same box."""
    wsod_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    model = KnownScores(
        [torch.tensor([[0.8]]), torch.tensor([[0.6]])],
        [torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[[90.0, 0, 100, 10]]])],
        build_model(wsod_cfg),
    )
    sample = original([[0.0, 0, 10, 10]])
    sample |= {"image": torch.zeros(3, 50, 100, dtype=torch.uint8), "height": 50, "width": 100}
    sample["proposals"]._image_size = (50, 100)
    views = WSODRCNNWithTTA(model, min_sizes=(50,), max_size=1000, flip=True)
    found = views([sample])[0]["instances"]
    assert found.scores.tolist() == pytest.approx([0.7])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10]]
    assert found.image_size == (50, 100)


@pytest.mark.parametrize("regression", ["none", "class_specific"])
def test_one_view_gives_what_the_model_gives(wsod_cfg: CfgNode, regression: str) -> None:
    wsod_cfg.MODEL.WSOD.REGRESSION = regression
    model = trained_looking(wsod_cfg)
    sample = original()
    with torch.no_grad():
        expected = model([resized(sample, 64)])[0]["instances"]
    found = WSODRCNNWithTTA(model, min_sizes=(64,), max_size=1000, flip=False)([sample])
    assert len(expected) >= 5
    assert torch.allclose(rows(found[0]["instances"]), rows(expected), atol=1e-3)
    assert found[0]["instances"].image_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("refinements", [3, 0])
def test_fourteen_views_are_the_mean_of_fourteen(wsod_cfg: CfgNode, refinements: int) -> None:
    wsod_cfg.MODEL.WSOD.NUM_REFINEMENTS = refinements
    wsod_cfg.MODEL.WSOD.REGRESSION = "class_specific" if refinements else "none"
    wsod_cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0  # every proposal of every class is a detection
    wsod_cfg.TEST.AUG.MIN_SIZES, wsod_cfg.TEST.AUG.MAX_SIZE = MIST_SIZES, 2000
    model = trained_looking(wsod_cfg)
    views = WSODRCNNWithTTA(wsod_cfg, model)
    assert views.num_views == 14
    sample = original()
    found = views([sample])[0]["instances"]
    scores, boxes = [], []
    for size in MIST_SIZES:
        for given, flipped in ((sample, False), (mirrored(sample), True)):
            view = resized(given, size)
            with torch.no_grad():
                view_scores, view_boxes = model.score_proposals([view])
            height, width = view["image"].shape[1:]
            placed = view_boxes[0].clone()
            if flipped:
                placed[..., [0, 2]] = width - view_boxes[0][..., [2, 0]]
            factors = torch.tensor([WIDTH / width, HEIGHT / height] * 2)
            scores.append(view_scores[0])
            boxes.append(placed * factors)
    mean, place = torch.stack(scores).mean(0), torch.stack(boxes).mean(0)
    place = torch.minimum(place.clamp(min=0), torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
    classes = torch.arange(3).expand(len(BOXES), 3)[..., None].float()
    expected = torch.cat([classes, place, mean[..., None]], dim=2).flatten(0, 1)
    assert torch.stack(scores).std(0).max() > 0.01, "the views must differ"
    assert torch.allclose(rows(found), torch.tensor(sorted(expected.tolist())), atol=2e-3)


def test_a_mirrored_image_has_mirrored_detections(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.REGRESSION = "class_specific"
    wsod_cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    views = WSODRCNNWithTTA(trained_looking(wsod_cfg), min_sizes=(48, 96), max_size=1000, flip=True)
    sample = original()
    found = views([sample])[0]["instances"]
    other = views([mirrored(sample)])[0]["instances"]
    back = image_to_view(other.pred_boxes.tensor, (HEIGHT, WIDTH), (HEIGHT, WIDTH), flipped=True)
    other.pred_boxes = Boxes(back)
    assert torch.allclose(rows(found), rows(other), atol=2e-3)


@pytest.mark.parametrize("sizes", [(48,), MIST_SIZES])
def test_one_view_is_in_memory_at_a_time(wsod_cfg: CfgNode, sizes: tuple[int, ...]) -> None:
    model = trained_looking(wsod_cfg)
    maps: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watch(module: nn.Module, inputs: Any, output: dict[str, Tensor]) -> None:
        assert not torch.is_grad_enabled(), "a graph would keep what the view needed"
        alive.append(sum(ref() is not None for ref in maps))
        maps.extend(weakref.ref(level) for level in output.values())

    model.backbone.register_forward_hook(watch)
    WSODRCNNWithTTA(model, min_sizes=sizes, max_size=1000, flip=True)([original()])
    assert len(alive) == 2 * len(sizes) and max(alive) == 0


def test_the_filter_cuts_absent_classes_before_the_top_k(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.TEST_LABEL_FILTER = True
    wsod_cfg.TEST.DETECTIONS_PER_IMAGE = 2
    wsod_cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    model = trained_looking(wsod_cfg)
    views = WSODRCNNWithTTA(model, min_sizes=(48, 64), max_size=1000, flip=True)
    for label in range(3):
        sample = original(image_labels=torch.tensor([label]))
        found = views([sample])[0]["instances"]
        assert found.pred_classes.tolist() == [label, label]
        assert not sample["proposals"].has("image_labels")
    assert len(views([original(image_labels=torch.tensor([]))])[0]["instances"]) == 0
    with pytest.raises(ValueError, match="TEST_LABEL_FILTER needs the labels of image 'a'"):
        views([original()])


def test_stored_scores_follow_their_proposals_into_every_view(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.OBJECTNESS_SCALE = True
    views = WSODRCNNWithTTA(trained_looking(wsod_cfg), min_sizes=(48, 64), max_size=1000, flip=True)
    results = []
    for first in (0.0, 1.0):
        sample = original()
        sample["proposals"].objectness = torch.tensor([first, 0, 0, 0, 0])
        results.append(rows(views([sample])[0]["instances"]))
    assert results[0].shape != results[1].shape or not torch.allclose(results[0], results[1])


def test_several_images_are_detected_one_after_another(wsod_cfg: CfgNode) -> None:
    views = WSODRCNNWithTTA(trained_looking(wsod_cfg), min_sizes=(48,), max_size=1000, flip=True)
    one, other = original(), original(BOXES[:1])
    together = views([one, other])
    assert torch.equal(rows(together[0]["instances"]), rows(views([one])[0]["instances"]))
    assert torch.equal(rows(together[1]["instances"]), rows(views([other])[0]["instances"]))


def test_the_mode_of_the_model_stays(wsod_cfg: CfgNode) -> None:
    model = build_model(wsod_cfg)
    assert WSODRCNNWithTTA(wsod_cfg, model.train()).training
    assert not WSODRCNNWithTTA(wsod_cfg, model.eval()).training


def test_no_random_number_is_drawn(wsod_cfg: CfgNode) -> None:
    views = WSODRCNNWithTTA(trained_looking(wsod_cfg), min_sizes=(48,), max_size=1000, flip=True)
    before = np.random.get_state()[1].copy()
    views([original()])
    assert (np.random.get_state()[1] == before).all()


def test_what_would_be_wrong_is_refused(wsod_cfg: CfgNode) -> None:
    model = build_model(wsod_cfg).eval()
    views = WSODRCNNWithTTA(model, min_sizes=(48,), max_size=1000, flip=False)
    with pytest.raises(ValueError, match="'a' of .48, 80. .* has pixels of .64, 107."):
        views([resized(original(), 64)])
    for sizes in ((), (0,)):
        with pytest.raises(ValueError, match="TEST.AUG.MIN_SIZES"):
            WSODRCNNWithTTA(model, min_sizes=sizes, max_size=1000, flip=False)
    with pytest.raises(ValueError, match="takes a WSODRCNN, got a Linear"):
        WSODRCNNWithTTA(nn.Linear(1, 1), min_sizes=(48,), max_size=1000, flip=False)
