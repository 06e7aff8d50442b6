"""The whole model: training, detection, padding, tasks, precision, and that it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Instances, PolygonMasks
from torch import Tensor
from weaksam_d2.projects.mask2former import Mask2Former
from weaksam_d2.projects.mask2former.targets import instance_targets, semantic_targets

from weaksam_d2.data import build_train_loader, register_scenes
from weaksam_d2.data.datasets.scenes import SceneSet
from weaksam_d2.engine.training.optimizer import build_optimizer

Sample = Callable[..., dict[str, Any]]
Model = Callable[..., Mask2Former]
CPU = torch.device("cpu")
SEMANTIC = ("MODEL.MASK2FORMER.TASK", "semantic")


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def test_training_gives_the_losses_of_all_predictions(
    tiny_cfg: Callable[..., Any], sample: Sample
) -> None:
    model = build_model(tiny_cfg())
    assert META_ARCH_REGISTRY.get("Mask2Former") is type(model) is Mask2Former
    assert model.class_count_node == "ROI_HEADS"
    losses = model([sample(0, 2), sample(1, seed=1, size=(48, 80))])
    names = {f"loss_{kind}{end}" for kind in ("ce", "mask", "dice") for end in ("", "_0", "_1")}
    assert set(losses) == names and all(value.isfinite() for value in losses.values())
    total(losses).backward()
    learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert all(p.grad is not None for _, p in learning), [n for n, p in learning if p.grad is None]


@pytest.mark.parametrize("changes", [(), SEMANTIC])
def test_a_batch_without_objects_reaches_every_parameter(
    tiny_model: Model, sample: Sample, changes: Any
) -> None:
    samples = [sample(), sample(seed=1)]
    for one in samples:
        one["sem_seg"] = torch.full((64, 64), 255)
    model = tiny_model(*changes)
    total(model(samples)).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_one_class_and_more_objects_than_queries(tiny_model: Model, sample: Sample) -> None:
    small = ("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.MASK2FORMER.NUM_QUERIES", 2)
    model = tiny_model(*small)
    assert total(model([sample(0, 0, 0, 0)])).isfinite()
    found = model.eval()([sample()])[0]["instances"]
    assert len(found) <= 2 and not found.pred_classes.any()


def test_detections_have_the_original_size_and_need_no_truth(
    tiny_model: Model, sample: Sample
) -> None:
    model = tiny_model("TEST.DETECTIONS_PER_IMAGE", 7).eval()
    one = sample(size=(48, 80))
    one = {"image": one["image"], "height": 96, "width": 160}
    with torch.no_grad():
        found = model([one])[0]["instances"]
    assert found.image_size == (96, 160) and 0 < len(found) <= 7
    assert found.pred_masks.shape[1:] == (96, 160) and found.pred_masks.dtype == torch.bool
    assert (found.scores.diff() <= 0).all() and (found.pred_classes < 3).all()
    for box, mask in zip(found.pred_boxes.tensor, found.pred_masks, strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_images_of_one_size_do_not_see_each_other(tiny_model: Model, sample: Sample) -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        alone = model([sample(seed=1)])[0]["instances"]
        both = model([sample(seed=2), sample(seed=1)])[1]["instances"]
    assert torch.allclose(alone.scores, both.scores, atol=1e-5)
    assert (alone.pred_masks != both.pred_masks).float().mean() < 1e-3


def test_padding_is_cut_off_and_has_no_objects(tiny_model: Model, sample: Sample) -> None:
    model = tiny_model().eval()
    one = sample(0, size=(40, 50))
    target = instance_targets(one, (64, 64), CPU)
    assert target.masks.shape == (1, 64, 64) and target.masks.sum() == 16 * 32
    assert not target.masks[:, 40:].any() and not target.masks[:, :, 50:].any()
    with torch.no_grad():
        found = model([one])[0]["instances"]
        images = model._images([one])
        last = model.predictor(*model.pixel_decoder(model.backbone(images.tensor)))[-1]
    assert images.tensor.shape == (1, 3, 64, 64)
    assert found.pred_masks.shape[1:] == (40, 50)
    larger = torch.nn.functional.interpolate(last.masks, size=(64, 64), mode="bilinear")
    shown = larger[0, :, :40, :50] > 0
    for mask in found.pred_masks:
        assert any(mask.equal(one) for one in shown)


def test_polygons_are_filled(sample: Sample) -> None:
    one = sample(0)
    instances = Instances((64, 64))
    instances.gt_masks = PolygonMasks([[[8.0, 8.0, 24.0, 8.0, 24.0, 40.0, 8.0, 40.0]]])
    instances.gt_classes = torch.tensor([2])
    target = instance_targets({**one, "instances": instances}, (64, 96), CPU)
    wanted = torch.zeros(64, 96, dtype=torch.bool)
    wanted[8:40, 8:24] = True
    assert target.masks[0].equal(wanted) and target.classes.tolist() == [2]


def test_objects_without_masks_and_samples_without_objects_are_named(sample: Sample) -> None:
    one = sample(0, seed=4)
    one["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match=r"image '4'.*MODEL.MASK_ON True"):
        instance_targets(one, (64, 64), CPU)
    del one["instances"]
    with pytest.raises(ValueError, match=r"image '4'.*Mask2FormerMapper"):
        instance_targets(one, (64, 64), CPU)
    with pytest.raises(ValueError, match=r"image '4'.*sem_seg_file_name"):
        labels(one, (64, 64))


def labels(one: dict[str, Any], canvas: tuple[int, int], *, mask_ignore: bool = False) -> Any:
    arguments = {"num_classes": 3, "ignore": 255, "mask_ignore": mask_ignore}
    return semantic_targets(one, canvas, CPU, **arguments)


def test_each_class_that_is_there_is_one_mask_and_255_is_none(sample: Sample) -> None:
    one = sample()
    one["sem_seg"] = torch.tensor([[0, 0, 2], [255, 2, 2]])
    target = labels(one, (3, 4))
    assert target.classes.tolist() == [0, 2] and target.valid is None
    assert target.masks[0].nonzero().tolist() == [[0, 0], [0, 1]]
    assert target.masks[1].nonzero().tolist() == [[0, 2], [1, 1], [1, 2]]
    valid = labels(one, (3, 4), mask_ignore=True).valid
    assert valid.int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    one["sem_seg"] = torch.full((2, 3), 255)
    assert len(labels(one, (2, 3)).classes) == 0
    one["sem_seg"] = torch.tensor([[7]])
    with pytest.raises(ValueError, match=r"labels of image '0'.*are \[7\], expected 0 to 2"):
        labels(one, (1, 1))


def test_the_semantic_task_trains_and_scores_every_pixel(tiny_model: Model, sample: Sample) -> None:
    one = sample(size=(48, 80))
    one["sem_seg"] = torch.zeros(48, 80, dtype=torch.int64)
    one["sem_seg"][:, 40:] = 2
    one["sem_seg"][:8] = 255
    for ignore in (False, True):
        model = tiny_model(*SEMANTIC, "MODEL.MASK2FORMER.MASK_IGNORE", ignore)
        assert total(model([one])).isfinite()
    with torch.no_grad():
        found = model.eval()([{"image": one["image"], "height": 30, "width": 50}])[0]
    assert set(found) == {"sem_seg"} and found["sem_seg"].shape == (3, 30, 50)
    assert found["sem_seg"].min() >= 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_losses_and_gradients(
    tiny_model: Model, sample: Sample, dtype: torch.dtype
) -> None:
    model = tiny_model()
    torch.manual_seed(1)
    exact = model([sample(0, 1)])
    with torch.autocast("cpu", dtype=dtype):
        torch.manual_seed(1)
        rounded = model([sample(0, 1)])
        found = tiny_model().eval()([sample()])[0]["instances"]
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert total(rounded).item() == pytest.approx(total(exact).item(), rel=0.1)
    total(rounded).backward()
    assert found.scores.isfinite().all()


def test_a_wrong_task_or_feature_map_is_refused(tiny_model: Model) -> None:
    with pytest.raises(ValueError, match=r"TASK is 'panoptic'"):
        tiny_model("MODEL.MASK2FORMER.TASK", "panoptic")
    with pytest.raises(ValueError, match=r"strides \[8, 16, 32, None\], expected \(4, 8, 16, 32\)"):
        tiny_model("MODEL.MASK2FORMER.IN_FEATURES", ("c3", "c4", "c5", "c6"))


def test_a_few_steps_on_rendered_scenes_lower_the_loss(
    tiny_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    known = set(DatasetCatalog.list())
    try:
        scenes = SceneSet("few", train=4, val=1, scale=(0.4, 0.7))
        register_scenes("few_train", root=tmp_path, split="train", scenes=scenes)
        cfg = tiny_cfg(
            *("DATASETS.TRAIN", ("few_train_eval",), "DATALOADER.NUM_WORKERS", 0),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 6, "SOLVER.IMS_PER_BATCH", 4, "SEED", 3),
            *("INPUT.LSJ.SCALE", (1.0, 1.0), "INPUT.RANDOM_FLIP", "none"),
            *("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 2e-3),
        )
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        batch = next(iter(build_train_loader(cfg)))  # the same four pictures in every step
        seen = []
        for _ in range(16):
            loss = total(model(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
    finally:
        for name in set(DatasetCatalog.list()) - known:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert sum(seen[-3:]) < 0.8 * sum(seen[:3])
