"""The three losses together, and what a trained S2C is used for (wsss.md, Sec. 6)."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone, build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from weaksam_d2.projects.s2c import S2C, cpm_loss

from weaksam_d2.artifacts import CamStore
from weaksam_d2.cams import read_cam
from weaksam_d2.engine.stages.image_stages import Placement, cams_stage
from weaksam_d2.evaluation import MultilabelEvaluator, build_evaluator

Make = Callable[..., Any]


def losses_at(model: Any, items: list[dict[str, Any]], iteration: int) -> dict[str, Tensor]:
    with EventStorage(iteration):
        found: dict[str, Tensor] = model(items)
    return found


def test_the_classification_loss_is_the_mean_over_images_and_classes(
    tiny_model: Make, sample: Make
) -> None:
    model = tiny_model()
    items = [sample(0, 2), sample(seed=1)]
    losses = losses_at(model, items, 0)
    assert list(losses) == ["loss_cls", "loss_ssc", "loss_cpm"]
    views = torch.stack([model.normalize(item["image"]) for item in items])
    logits = model.network(views).activations.mean(dim=(2, 3))  # with its sign, before any ReLU
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(losses["loss_cls"], expected)


def test_cpm_starts_with_its_epoch_and_comes_every_few_steps(
    tiny_model: Make, sample: Make
) -> None:
    model = tiny_model("MODEL.S2C.EPOCH_ITERS", 10, "MODEL.S2C.SAM_EVERY", 3, "MODEL.S2C.TAU", 0.0)
    active = {}
    for iteration in (0, 9, 10, 11, 12, 13, 16):
        losses = losses_at(model, [sample(0), sample(1)], iteration)
        active[iteration] = losses.get("loss_cpm")
    assert [i for i, value in active.items() if value is not None and value > 0] == [10, 13, 16]
    # Before it begins it is 0; between its steps there is none, so that a log does not show zeros.
    assert [i for i, value in active.items() if value is None] == [11, 12]


def test_the_epoch_is_counted_from_the_data_set(
    tiny_cfg: Make, tiny_model: Make, photos: Path
) -> None:
    keys = ("MODEL.S2C.EPOCH_ITERS", 0, "DATASETS.TRAIN", ("s2c_tiny",), "SOLVER.IMS_PER_BATCH", 3)
    assert tiny_model(*keys, "MODEL.S2C.CPM_START_EPOCH", 2)._cpm_start() == 4  # of 4 images


def test_cpm_is_made_of_the_pure_functions(tiny_model: Make, sample: Make) -> None:
    model = tiny_model("MODEL.S2C.TAU", 0.0)
    items = [sample(0, 2), sample(1, seed=1)]
    views = torch.stack([model.normalize(item["image"]) for item in items])
    classes = [item["image_labels"] for item in items]
    labels = model.self_labels(views, items, classes)
    assert labels.shape == (2, 32, 32)
    assert set(labels[0].unique().tolist()) <= {0, 1, 3} and labels[0].any()
    assert set(labels[1].unique().tolist()) <= {0, 2} and labels[1].any()
    expected = cpm_loss(model.network(views).activations, labels, classes)
    torch.testing.assert_close(losses_at(model, items, 5)["loss_cpm"], expected)


def test_the_network_is_in_evaluation_mode_for_cpm_and_as_before_afterwards(
    tiny_model: Make, sample: Make
) -> None:
    model = tiny_model()
    modes: list[bool] = []
    model.network.fc8.register_forward_hook(lambda module, *_: modes.append(module.training))
    frozen = [m for m in model.network.backbone.modules() if not m.training]
    losses_at(model, [sample(0), sample(1)], 5)
    assert modes == [True, False, False]  # the step, then two scales
    assert model.network.training and frozen
    assert [m for m in model.network.backbone.modules() if not m.training] == frozen


def test_images_without_tags_learn_absence_and_segments(tiny_model: Make, sample: Make) -> None:
    losses = losses_at(tiny_model(), [sample(), sample(seed=1)], 5)
    assert float(losses["loss_cls"].detach()) > 0 and float(losses["loss_ssc"].detach()) > 0
    assert float(losses["loss_cpm"].detach()) == 0
    sum(losses.values()).backward()


def test_classes_whose_maps_are_nowhere_positive_are_skipped(
    tiny_model: Make, sample: Make
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.network.fc9.weight[1] = -1.0  # features are not negative, so neither is the map
    items = [sample(1), sample(0, 1, seed=1)]
    views = torch.stack([model.normalize(item["image"]) for item in items])
    labels = model.self_labels(views, items, [item["image_labels"] for item in items])
    assert labels[0].unique().tolist() == [255]  # nobody proposes: not "background everywhere"
    assert 2 not in labels[1].unique().tolist()


def test_padding_of_a_crop_teaches_nothing(tiny_model: Make, sample: Make) -> None:
    model = tiny_model("MODEL.S2C.TAU", 0.0)
    item = sample(0)
    item["valid"] = torch.ones(32, 32, dtype=torch.bool)
    item["valid"][:, 20:] = False
    labels = model.self_labels(model.normalize(item["image"])[None], [item], [torch.tensor([0])])
    assert bool((labels[0, :, 20:] == 255).all()) and bool((labels[0, :, :20] == 1).any())


def test_crops_of_several_sizes_are_padded(tiny_model: Make, sample: Make) -> None:
    model = tiny_model("MODEL.S2C.TAU", 0.0)
    small = sample(0)
    small["image"], small["segments"] = small["image"][:, :24, :16], small["segments"][:24, :16]
    items = [small, sample(1, seed=1)]
    labels_of = []
    original = model._label_of
    model._label_of = lambda *a: labels_of.append(original(*a)) or labels_of[-1]
    losses = losses_at(model, items, 5)
    assert all(bool(value.isfinite()) for value in losses.values())
    assert bool((labels_of[0][24:] == 255).all()) and bool((labels_of[0][:, 16:] == 255).all())


@pytest.mark.parametrize(
    ("weights", "zero"),
    [((1.0, 0.0, 0.0), {"loss_ssc", "loss_cpm"}), ((1.0, 2.0, 0.0), {"loss_cpm"})],
)
def test_a_weight_of_zero_needs_neither_segments_nor_sam(
    tiny_model: Make, sample: Make, weights: tuple[float, ...], zero: set[str]
) -> None:
    keys = ("WEAKSAM.SAM.BACKEND", "NoSuchSam", "MODEL.S2C.LOSS_WEIGHTS", weights)
    items = [sample(0), sample(1, seed=1)]
    if "loss_ssc" in zero:
        items = [{k: v for k, v in item.items() if k != "segments"} for item in items]
    losses = losses_at(tiny_model(*keys), items, 5)
    assert {name for name, value in losses.items() if float(value.detach()) == 0} == zero
    plain = losses_at(tiny_model("MODEL.S2C.LOSS_WEIGHTS", (1.0, 1.0, 0.0)), [sample(0)], 0)
    twice = losses_at(tiny_model(*keys), [sample(0)], 0)["loss_ssc"]
    if weights[1]:
        torch.testing.assert_close(twice, 2 * plain["loss_ssc"])


def test_contrast_may_be_at_the_logits(tiny_model: Make, sample: Make) -> None:
    items = [sample(0), sample(1, seed=1)]
    found = {
        level: losses_at(tiny_model("MODEL.S2C.SSC_LEVEL", level), items, 0)["loss_ssc"]
        for level in ("feature", "logit")
    }
    assert not torch.isclose(found["feature"], found["logit"])


def test_a_missing_segmenter_stops_the_first_step(tiny_model: Make, sample: Make) -> None:
    model = tiny_model("WEAKSAM.SAM.BACKEND", "NoSuchSam", "MODEL.S2C.EPOCH_ITERS", 1000)
    with pytest.raises(KeyError, match="NoSuchSam"):
        losses_at(model, [sample(0)], 0)
    model = tiny_model("MODEL.S2C.CPM_PROMPT", "mask")
    with pytest.raises(ValueError, match="BACKEND FakeSam takes no mask as prompt"):
        losses_at(model, [sample(0)], 0)


def test_a_loss_that_is_not_finite_names_iteration_images_and_all_values(
    tiny_model: Make, sample: Make
) -> None:
    model = tiny_model()
    broken = sample(0, seed=7)
    broken["image"][0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="iteration 3: .*loss_cls.*loss_ssc.*loss_cpm.*"):
        losses_at(model, [broken], 3)
    with pytest.raises(FloatingPointError, match="on images image 7; lower"):
        losses_at(model, [broken], 0)


def test_batches_without_tags_or_segments_are_refused(tiny_model: Make, sample: Make) -> None:
    item = sample(0)
    for key, message in (("image_labels", "no 'image_labels'"), ("segments", "no 'segments'")):
        with pytest.raises(ValueError, match=f"'image 0' of the training batch has {message}"):
            losses_at(tiny_model(), [{k: v for k, v in item.items() if k != key}], 0)


def test_sam_is_no_part_of_the_model(tiny_model: Make, sample: Make) -> None:
    class Sam(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    model = tiny_model()
    names = set(model.state_dict())
    losses_at(model, [sample(0)], 0)
    model._sam._made[0].model = Sam()
    assert set(model.state_dict()) == names
    assert all("sam" not in name.lower() for name, _ in model.named_parameters())
    assert copy.deepcopy(model)._sam._made == []
    assert names == {n for n in names if n.startswith("network.")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LOSS_WEIGHTS", (1.0, 1.0)),
        ("SSC_LEVEL", "pixel"),
        ("SAM_EVERY", 0),
        ("CPM_SCALES", ()),
        ("CPM_PROMPT", "text"),
        ("CPM_CONF", "cam"),
        ("IN_FEATURE", "c9"),
    ],
)
def test_bad_settings_fail_when_the_model_is_built(
    tiny_model: Make, key: str, value: object
) -> None:
    with pytest.raises(ValueError, match=f"MODEL.S2C.{key} "):
        tiny_model(f"MODEL.S2C.{key}", value)


def test_the_backbone_must_be_dense_enough_and_the_network_s2c(tiny_model: Make) -> None:
    keys = ("MODEL.TIMM.OUT_INDICES", (2, 4), "MODEL.S2C.IN_FEATURE", "c5")
    with pytest.raises(ValueError, match="has stride 32, expected at most 16"):
        tiny_model(*keys)
    with pytest.raises(ValueError, match="needs MODEL.CLASSIFIER.NETWORK S2C, got CNN"):
        tiny_model("MODEL.CLASSIFIER.NETWORK", "CNN")


def test_a_dilated_residual_network_of_detectron2_fits(tiny_model: Make, sample: Make) -> None:
    model = tiny_model(
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 50),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
        *("MODEL.RESNETS.RES5_DILATION", 2, "MODEL.RESNETS.OUT_FEATURES", ["res5"]),
        *("MODEL.S2C.IN_FEATURE", "res5", "MODEL.S2C.LOSS_WEIGHTS", (1.0, 1.0, 0.0)),
    )
    assert float(losses_at(model, [sample(0)], 0)["loss_ssc"].detach()) > 0


class Cells(Backbone):
    """Means of cells of 8 x 8 pixels: what a cell sees is known."""

    size_divisibility = 8

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["cells"]
        self._out_feature_strides, self._out_feature_channels = {"cells": 8}, {"cells": 3}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert images.shape[-1] % 8 == images.shape[-2] % 8 == 0
        return {"cells": nn.functional.avg_pool2d(images, 8)}


def test_maps_cover_the_image_and_logits_its_valid_part() -> None:
    torch.manual_seed(0)
    network = S2C(backbone=Cells(), in_feature="cells", num_classes=2, feature_dim=4)
    image = torch.rand(3, 20, 35)
    network.requires_grad_(False)
    maps = network.maps(image, torch.tensor([1]))
    assert maps.coarse.shape == (1, 3, 5) and maps.fine is None and float(maps.coarse.min()) >= 0
    signed = network(image[None]).activations
    assert maps.coarse.equal(signed[0, 1:].relu())
    torch.testing.assert_close(network.class_logits(image[None])[0], signed.mean(dim=(2, 3)))
    padded = nn.functional.pad(image, (0, 29, 0, 44))[None]
    (logits,) = network.class_logits(padded, [(20, 35)])
    torch.testing.assert_close(logits, signed.mean(dim=(2, 3)))


def test_maps_are_an_ordinary_artifact_divided_by_their_maximum(
    tiny_cfg: Make, photos: Path
) -> None:
    cfg = tiny_cfg(
        "DATASETS.TRAIN", ("s2c_tiny",), "WEAKSAM.SAM.BACKEND", "NoSuchSam", "MODEL.DEVICE", "cpu"
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, photos / "model.pth")
    cams_stage(cfg, "s2c_tiny", photos / "model.pth", Placement(photos / "cams"))
    store = CamStore.open(photos / "cams")
    assert (store.index["normalize"], store.index["network"]) == ("max", "S2C")
    cam, classes = read_cam(store, "b")
    assert classes.tolist() == [1] and cam.shape == (1, 48, 64)
    assert float(cam.min()) >= 0
    assert float(cam.max()) == pytest.approx(1, abs=1e-3) or not cam.any()


def test_it_is_evaluated_by_its_tags(tiny_cfg: Make, photos: Path) -> None:
    cfg = tiny_cfg("DATASETS.TEST", ("s2c_tiny",))
    assert isinstance(build_evaluator(cfg, "s2c_tiny", photos), MultilabelEvaluator)
    model = build_model(cfg).eval()
    (found,) = model([{"image": torch.zeros(3, 40, 50, dtype=torch.uint8)}])
    assert found["class_logits"].shape == (3,)
