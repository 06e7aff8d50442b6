"""The published recipes of weakly supervised detection as configs, number by number."""

from typing import Any

import pytest

from weaksam_d2.engine import cli
from weaksam_d2.model_zoo import get_config_file

# Images of the training sets.
IMAGES = {
    **{"voc_2007_trainval": 5011, "voc_2012_trainval": 11540},
    **{"coco_2014_train": 82783, "coco_2017_train": 118287},
}
OICR_SIZES, COCO_SIZES = (488, 576, 688, 864, 1200), (480, 576, 688, 864, 1000, 1200)
CAFFE, ROUNDED = ("BGR", (102.9801, 115.9465, 122.7717)), ("BGR", (104.0, 117.0, 124.0))
TORCHVISION = ("RGB", (123.675, 116.28, 103.53))


def load(name: str) -> Any:
    cfg = cli.base_config()
    cfg.merge_from_file(get_config_file(f"{name}.yaml"))
    return cfg


def trained_on(cfg: Any) -> str:
    (name,) = cfg.DATASETS.TRAIN
    return str(name).removesuffix("_weak")


# weaksam.md, Sec. 5.7: rate, epochs, epochs of its decays; Sec. 5.1: sizes, smallest side, pixels.
@pytest.mark.parametrize(
    ("name", "data", "rate", "epochs", "decays", "sizes", "side", "pixels"),
    [
        ("PascalVOC-Detection/oicr_V_16_1x", "voc_2007_trainval", 8e-6, 50, (36,), OICR_SIZES,
         20, ROUNDED),
        ("PascalVOC-Detection/oicr_V_16_voc12_1x", "voc_2012_trainval", 8e-6, 25, (18,),
         OICR_SIZES, 20, ROUNDED),
        ("COCO-Detection/oicr_V_16_1x", "coco_2014_train", 1e-5, 12, (8, 11), COCO_SIZES,
         2, TORCHVISION),
        ("COCO-Detection/oicr_V_16_coco17_1x", "coco_2017_train", 1e-5, 12, (8, 11), COCO_SIZES,
         2, TORCHVISION),
    ],
)  # fmt: skip
def test_oicr_is_trained_for_the_published_epochs(
    name: str,
    data: str,
    rate: float,
    epochs: int,
    decays: tuple[int, ...],
    sizes: tuple[int, ...],
    side: int,
    pixels: tuple[str, tuple[float, ...]],
) -> None:
    cfg = load(name)
    solver = cfg.SOLVER
    assert trained_on(cfg) == data
    assert ("Adam", rate, 4) == (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_BIAS, solver.BIAS_LR_FACTOR) == (5e-4, 0, 2)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (500, 0.001)
    assert int(epochs * IMAGES[data] / 4) == solver.MAX_ITER
    assert [int(epoch * IMAGES[data] / 4) for epoch in decays] == list(solver.STEPS)
    assert (cfg.MODEL.WSOD.REFINE_LR_MULT, cfg.MODEL.WSOD.INIT_STD) == (10.0, 0.01)
    assert (tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN) == (sizes, 2000)
    assert side == cfg.MODEL.WSOD.MIN_SIDE
    assert pixels == (cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN))


@pytest.mark.parametrize(
    ("name", "data", "length", "decays", "warm_up", "seed", "generator", "side"),
    [
        ("PascalVOC-Detection/mist_V_16_1x", "voc_2007_trainval", 30000, (20000, 26700), 200, 42,
         (1e-5, 3.0, ()), 20),
        ("PascalVOC-Detection/mist_V_16_voc12_1x", "voc_2012_trainval", 32000, (20000, 26700), 200,
         1, (1e-5, 3.0, ()), 20),
        ("COCO-Detection/mist_V_16_1x", "coco_2014_train", 125000, (82500, 115000), 500, -1,
         (1e-3, 0.1, (30000,)), 2),
    ],
)  # fmt: skip
def test_mist_is_trained_for_the_published_iterations(
    name: str,
    data: str,
    length: int,
    decays: tuple[int, ...],
    warm_up: int,
    seed: int,
    generator: tuple[float, float, tuple[int, ...]],
    side: int,
) -> None:
    cfg = load(name)
    solver, drop = cfg.SOLVER, cfg.MODEL.WSOD.DROPBLOCK
    assert trained_on(cfg) == data
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH) == ("Adam", 1e-5, 8)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_BIAS, solver.BIAS_LR_FACTOR) == (5e-4, 0, 2)
    assert (solver.WARMUP_ITERS, round(1 / solver.WARMUP_FACTOR, 2)) == (warm_up, 3.0)
    assert (solver.MAX_ITER, tuple(solver.STEPS), cfg.SEED) == (length, decays, seed)
    assert (drop.BASE_LR, drop.GAMMA, tuple(drop.STEPS)) == generator
    assert (cfg.MODEL.WSOD.REFINE_LR_MULT, cfg.MODEL.WSOD.INIT_STD) == (1.0, 0.001)
    assert (tuple(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN) == (COCO_SIZES, 2000)
    assert side == cfg.MODEL.WSOD.MIN_SIDE
    assert (cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN)) == CAFFE


# weaksam.md, Sec. 9
@pytest.mark.parametrize(
    ("name", "data", "rate", "length", "decays", "warm_up", "drop"),
    [
        ("PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x", "voc_2007_trainval", 0.02, 9000,
         (6000, 8000), 30, (4.0, -1)),
        ("PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_voc12_1x", "voc_2012_trainval", 0.015,
         16000, (10000, 14000), 60, (4.0, -1)),
        ("COCO-Detection/faster_rcnn_R_50_FPN_roi_drop_1x", "coco_2014_train", 0.02, 85000,
         (55000, 75000), 1000, (5.0, 10000)),
    ],
)  # fmt: skip
def test_retraining_is_as_published(
    name: str,
    data: str,
    rate: float,
    length: int,
    decays: tuple[int, ...],
    warm_up: int,
    drop: tuple[float, int],
) -> None:
    cfg = load(name)
    solver = cfg.SOLVER
    assert trained_on(cfg) == data
    assert ("SGD", rate, 16) == (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH)
    assert (solver.MAX_ITER, tuple(solver.STEPS), solver.WARMUP_ITERS) == (length, decays, warm_up)
    assert drop == (cfg.MODEL.ROI_DROP.CLS_THRESH, cfg.MODEL.ROI_DROP.START_ITER)
    voc = data.startswith("voc")
    sizes = range(480, 1217, 32) if voc else range(640, 801, 32)
    assert list(sizes) == list(cfg.INPUT.MIN_SIZE_TRAIN)
    assert (2000 if voc else 1333) == cfg.INPUT.MAX_SIZE_TRAIN


@pytest.mark.parametrize("method", ["mist_V_16", "faster_rcnn_R_50_FPN_roi_drop"])
def test_coco_2017_has_the_epochs_of_coco_2014(method: str) -> None:
    first, second = load(f"COCO-Detection/{method}_1x"), load(f"COCO-Detection/{method}_coco17_1x")
    assert (trained_on(first), trained_on(second)) == ("coco_2014_train", "coco_2017_train")
    ratio = IMAGES["coco_2017_train"] / IMAGES["coco_2014_train"]

    def schedule(cfg: Any) -> list[int]:
        start = cfg.MODEL.ROI_DROP.START_ITER
        extra = [*cfg.MODEL.WSOD.DROPBLOCK.STEPS, *([start] if start > 0 else [])]
        return [*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, *extra]

    assert len(schedule(first)) == 4
    assert schedule(second) == pytest.approx([ratio * value for value in schedule(first)], abs=1)


@pytest.mark.parametrize(
    ("name", "sizes", "flip"),
    [
        ("PascalVOC-Detection/oicr_V_16_1x", OICR_SIZES, False),
        ("PascalVOC-Detection/oicr_classic_V_16_1x", OICR_SIZES, False),
        ("COCO-Detection/oicr_V_16_coco17_1x", COCO_SIZES, False),
        ("PascalVOC-Detection/mist_V_16_voc12_1x", (800, *COCO_SIZES), True),
        ("COCO-Detection/mist_V_16_1x", (800, *COCO_SIZES), True),
        ("PascalVOC-Detection/oicr_drn_R_50_WS_1x", tuple(range(480, 1153, 96)), True),
    ],
)
def test_detectors_are_tested_in_the_published_views(
    name: str, sizes: tuple[int, ...], flip: bool
) -> None:
    views = load(name).TEST.AUG  # weaksam.md, Sec. 5.6
    assert (True, flip, 2000) == (views.ENABLED, views.FLIP, views.MAX_SIZE)
    assert tuple(views.MIN_SIZES) == sizes
