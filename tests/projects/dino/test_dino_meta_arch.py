"""The detector: samples in; losses, or detections in pixels of the original image, out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import Backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor
from weaksam_d2.projects.dino import DINO, DINOWithTTA, add_dino_config
from weaksam_d2.projects.dino.criterion import DINOCriterion
from weaksam_d2.projects.dino.dino import DenoisingSettings, detections, targets_of
from weaksam_d2.projects.dino.network import NetworkSettings
from weaksam_d2.projects.dino.outputs import LayerPrediction

from weaksam_d2.config import add_weaksam_config

pytest.importorskip("transformers")


def dino_cfg() -> Any:
    """A tiny DINO on a thin ResNet."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_dino_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.META_ARCHITECTURE = "DINO"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.DINO.HIDDEN_DIM, cfg.MODEL.DINO.FFN_DIM, cfg.MODEL.DINO.NUM_HEADS = 32, 16, 4
    cfg.MODEL.DINO.ENCODER_LAYERS = cfg.MODEL.DINO.DECODER_LAYERS = 2
    cfg.MODEL.DINO.NUM_QUERIES, cfg.MODEL.DINO.DN_NUMBER = 10, 4
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    return cfg


@pytest.fixture
def make_dino(
    make_backbone: Callable[..., Backbone], make_settings: Callable[..., NetworkSettings]
) -> Callable[..., DINO]:
    def make(**changes: Any) -> DINO:
        torch.manual_seed(0)
        cfg = dino_cfg()
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = changes.get("num_classes", 3)
        return DINO(
            backbone=make_backbone(),
            settings=make_settings(**changes),
            criterion=DINOCriterion.from_config(cfg),
            denoising=DenoisingSettings(number=changes.pop("number", 4)),
            pixel_mean=[100.0, 110.0, 120.0],
            pixel_std=[50.0, 55.0, 60.0],
            max_detections=12,
        )

    return make


def sample(
    boxes: list[list[float]], classes: list[int], size: tuple[int, int] = (48, 64)
) -> dict[str, Any]:
    torch.manual_seed(2)
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return {"image_id": "a", "image": image, "instances": instances}


def batch() -> list[dict[str, Any]]:
    return [
        sample([[4, 4, 40, 44], [20, 8, 60, 40]], [2, 0]),
        sample([[0, 0, 30, 30]], [1], (64, 40)),
    ]


def step(model: DINO, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    model.train()
    with EventStorage():
        losses = model(samples)
        sum(losses.values()).backward()
    return losses


def test_a_step_teaches_every_parameter(make_dino: Callable[..., DINO]) -> None:
    model = make_dino()
    losses = step(model, batch())
    # Two layers, the encoder, two layers of denoising queries: three losses each.
    assert len(losses) == 15 and all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("number", [0, 4])
def test_a_batch_without_objects_or_noise_still_reaches_every_parameter(
    make_dino: Callable[..., DINO], number: int
) -> None:
    model = make_dino()
    model.denoising = DenoisingSettings(number=number)
    samples = batch() if number == 0 else [sample([], []), sample([], [])]
    losses = step(model, samples)
    # The losses of denoising queries are 0: a step has the same names with them and without.
    assert len(losses) == 15 and all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.label_enc.weight.grad is not None and model.label_enc.weight.grad.eq(0).all()


def test_one_class_and_one_image_without_an_object(make_dino: Callable[..., DINO]) -> None:
    model = make_dino(num_classes=1)
    losses = step(model, [sample([[4, 4, 40, 44]], [0]), sample([], [])])
    assert all(loss.isfinite() for loss in losses.values())
    found = model.eval()([{"image": batch()[0]["image"]}])[0]["instances"]
    assert found.pred_classes.eq(0).all() and len(found) == 10


def test_a_few_steps_lower_the_loss(make_dino: Callable[..., DINO]) -> None:
    model = make_dino()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        totals.append(sum(float(loss) for loss in step(model, batch()).values()))
        optimizer.step()
    assert sum(totals[-3:]) < 0.9 * sum(totals[:3])


def test_inference_needs_no_boxes_and_gives_boxes_of_the_original_image(
    make_dino: Callable[..., DINO],
) -> None:
    model = make_dino().eval()
    image = batch()[0]["image"]
    given, plain = model([{"image": image, "height": 96, "width": 256}, {"image": image}])
    assert set(given) == {"instances"}
    big, small = given["instances"], plain["instances"]
    assert set(big.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert big.image_size == (96, 256) and small.image_size == (48, 64)
    scale = torch.tensor([4.0, 2.0, 4.0, 2.0])
    torch.testing.assert_close(big.pred_boxes.tensor, small.pred_boxes.tensor * scale)
    assert len(big) == 12 and big.scores.diff().le(0).all() and not big.scores.requires_grad
    assert (big.pred_boxes.tensor <= torch.tensor([256.0, 96, 256, 96])).all()


def test_detections_are_the_best_pairs_of_query_and_class() -> None:
    logits = torch.tensor([[[1.0, 3.0], [2.0, -4.0], [-5.0, -6.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.5, 0.4, 1.0], [0.5, 0.5, 1, 1]]])
    found = detections(LayerPrediction(logits, boxes), [(10, 100)], 3)[0]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert found.pred_classes.tolist() == [1, 0, 0]
    wanted = [[40.0, 3, 60, 7], [0, 0, 30, 10], [40, 3, 60, 7]]  # the second is clipped
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(wanted), rtol=0, atol=1e-4)
    assert len(detections(LayerPrediction(logits, boxes), [(10, 100)], 300)[0]) == 6


def test_targets_are_centers_in_units_of_the_view_and_small_objects_are_left_out() -> None:
    instances = sample([[16, 12, 48, 36], [0, 0, 31.5, 40], [0, 0, 40, 20]], [2, 1, 0])["instances"]
    every = targets_of(instances, 0)
    torch.testing.assert_close(every.boxes[0], torch.tensor([0.5, 0.5, 0.5, 0.5]))
    assert every.classes.tolist() == [2, 1, 0]
    assert targets_of(instances, 24).classes.tolist() == [2, 1]
    assert targets_of(instances, 32).classes.tolist() == []


def test_samples_that_cannot_be_learned_from_are_named(make_dino: Callable[..., DINO]) -> None:
    model = make_dino().train()
    with pytest.raises(ValueError, match="'a' has no 'instances'.*'image'"):
        model([{"image_id": "a", "image": batch()[0]["image"]}])
    with pytest.raises(ValueError, match="'a' has classes \\[0, 3\\], expected 0 to 2"):
        model([sample([[0, 0, 9, 9], [0, 0, 9, 9]], [0, 3])])


def test_the_config_builds_what_its_keys_say() -> None:
    cfg = dino_cfg()
    cfg.MODEL.DINO.MIN_GT_SIZE = 5.0
    cfg.MODEL.DINO.POS_TEMPERATURE, cfg.MODEL.DINO.POS_OFFSET = 10000.0, -0.5
    model = build_model(cfg)
    assert isinstance(model, DINO) and model.class_count_node == "ROI_HEADS"
    assert model.settings == NetworkSettings(
        num_classes=3, hidden_dim=32, ffn_dim=16, num_heads=4, encoder_layers=2, decoder_layers=2,
        num_queries=10, pos_temperature=10000.0, pos_offset=-0.5,
    )  # fmt: skip
    assert model.denoising == DenoisingSettings(number=4, label_noise=0.5, box_noise=1.0)
    assert (model.min_gt_size, model.max_detections) == (5.0, 20)
    losses = step(model, batch())
    assert all(loss.isfinite() for loss in losses.values())
    frozen = {n.split(".")[1] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
    cfg.MODEL.WEIGHTS, cfg.MODEL.DINO.WEIGHTS = "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "f"
    with pytest.raises(ValueError, match="set MODEL.WEIGHTS ''"):
        build_model(cfg)


class Told:
    """A model's inference that says what the test tells it, view after view."""

    def __init__(self, found: list[list[tuple[list[float], float, int]]]) -> None:
        self.found, self.seen = found, []  # type: ignore[var-annotated]

    def __call__(self, samples: list[dict[str, Any]], do_postprocess: bool) -> list[Instances]:
        assert len(samples) == 1 and not do_postprocess
        image = samples[0]["image"]
        rows = self.found[len(self.seen)]
        self.seen.append(tuple(image.shape[1:]))
        instances = Instances(tuple(image.shape[1:]))
        instances.pred_boxes = Boxes(torch.tensor([row[0] for row in rows]).view(-1, 4))
        instances.scores = torch.tensor([row[1] for row in rows])
        instances.pred_classes = torch.tensor([row[2] for row in rows], dtype=torch.int64)
        return [instances]


def test_views_are_joined_in_the_original_image(
    make_dino: Callable[..., DINO], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = dino_cfg()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (24, 96), 1000, True
    model = make_dino().eval()
    told = Told(
        [
            [([0, 0, 10, 10], 0.9, 1), ([0, 0, 10, 10], 0.3, 2)],
            # Mirrored in a width of 32: [20, 0, 30, 10] is [2, 0, 12, 10].
            [([20, 0, 30, 10], 0.8, 1)],
            [([80, 40, 120, 90], 0.5, 1), ([5, 5, 5, 9], 0.99, 0)],
            [],
        ]
    )
    monkeypatch.setattr(model, "inference", told)
    views = model.with_test_views(cfg)
    assert isinstance(views, DINOWithTTA) and not views.training and views.nms_thresh == 0.6
    image = batch()[0]["image"]  # 48 x 64
    found = views([{"image": image, "height": 48, "width": 64}])[0]["instances"]
    assert told.seen == [(24, 32), (24, 32), (96, 128), (96, 128)]
    # The first two views overlap by 0.667 > 0.6; the other class and the flat box do not count.
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert found.pred_classes.tolist() == [1, 1, 2]
    wanted = torch.tensor([[0.0, 0, 20, 20], [40, 20, 60, 45], [0, 0, 20, 20]])
    torch.testing.assert_close(found.pred_boxes.tensor, wanted)
    assert found.image_size == (48, 64)


def test_views_of_a_real_model_are_limited_and_start_from_any_size(
    make_dino: Callable[..., DINO],
) -> None:
    cfg = dino_cfg()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (32, 48), 1000
    views = make_dino().eval().with_test_views(cfg)
    image = batch()[0]["image"]
    found = views([{"image": image}, {"image": image, "height": 96, "width": 128}])
    assert [one["instances"].image_size for one in found] == [(48, 64), (96, 128)]
    for one in found:
        assert 0 < len(one["instances"]) <= 12
        assert one["instances"].scores.diff().le(0).all()
