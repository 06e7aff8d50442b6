"""What RoI drop costs: a training step with it against the same step of detectron2's own head.

Example:
    python benchmarks/roi_drop.py --quick --json output/bench/roi_drop.json

The cost is a few operations on some hundred rows, far below the scatter of whole steps. So it is
measured apart: the losses of 2 x 512 regions and their gradients, with drop and without; the step
is timed once more as a whole. Reported are the step, and the step with the difference added; the
ratio is asked to be 0.98, that is at most 2 %. Times are those of the processor: this is a CPU
benchmark, and whatever else the machine does does not count.
"""

import gc
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import torch
from _harness import Row, make_parser, report
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

import weaksam_d2.backbones  # noqa: F401  (registers the light backbone)
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.retrain import RoIDropFastRCNNOutputLayers, RoIDropSettings

REGIONS = 512  # of each of the two images
TARGET = 0.98
LOSS_REPEATS = 100
NETWORKS = {
    "Faster R-CNN R50-FPN": "PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x.yaml",
    "Lite0": "Animals/faster_rcnn_lite0_roi_drop.yaml",
}


def config(name: str, head: str) -> Any:
    """One of our configs with random weights and 20 classes, with our head or the stock one."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.WEIGHTS = "cpu", "", ""
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = head, 20
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = REGIONS
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 1000
    cfg.MODEL.ROI_DROP.START_ITER = 0
    return cfg


def make_batch(side: int) -> list[dict[str, Any]]:
    """Two images of random pixels with four objects each."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(2):
        low = torch.rand(4, 2, generator=generator) * side * 0.5
        size = side * (0.2 + 0.3 * torch.rand(4, 2, generator=generator))
        truth = Instances((side, side), gt_boxes=Boxes(torch.cat([low, low + size], 1)))
        truth.gt_classes = torch.randint(0, 20, (4,), generator=generator)
        image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "height": side, "width": side, "instances": truth})
    return batch


def build(name: str, head: str) -> Any:
    torch.manual_seed(0)
    return build_model(config(name, head)).train()


def step(model: Any, batch: list[dict[str, Any]]) -> None:
    model.zero_grad()
    with EventStorage():
        sum(model(batch).values()).backward()


def make_regions(side: int) -> list[Instances]:
    """A quarter of the regions lie around objects, as sampling makes them."""
    generator = torch.Generator().manual_seed(1)
    regions = []
    for item in make_batch(side):
        truth = item["instances"]
        place = torch.randint(0, len(truth), (REGIONS,), generator=generator)
        shake = side * 0.04 * torch.randn(REGIONS, 4, generator=generator)
        labels = truth.gt_classes[place].where(torch.arange(REGIONS) < REGIONS // 4, 20)
        one = Instances((side, side), proposal_boxes=Boxes(truth.gt_boxes.tensor[place] + shake))
        one.gt_boxes, one.gt_classes = truth.gt_boxes[place], labels
        regions.append(one)
    return regions


def head_losses(predictor: Any, regions: list[Instances]) -> Callable[[], dict[str, Tensor]]:
    """The losses of a predictor and their gradients down to what its two linear layers gave."""
    count = sum(map(len, regions))
    generator = torch.Generator().manual_seed(2)
    shapes = (predictor.cls_score.out_features, predictor.bbox_pred.out_features)
    given = [0.1 * torch.randn(count, n, generator=generator) for n in shapes]
    given = [tensor.requires_grad_() for tensor in given]

    def run() -> dict[str, Tensor]:
        for tensor in given:
            tensor.grad = None
        with EventStorage():
            losses: dict[str, Tensor] = predictor.losses(tuple(given), regions)
            torch.stack(list(losses.values())).sum().backward()
        return losses

    return run


def seconds(functions: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median processor seconds of each function, interleaved, after one run of each."""
    found: list[list[float]] = [[] for _ in functions]
    gc.collect()
    for repeat in range(repeats + 1):
        for times, function in zip(found, functions, strict=True):
            start = process_time()
            function()
            if repeat:
                times.append(process_time() - start)
    return [median(times) for times in found]


def check(stock: Any, dropped: dict[str, Tensor], regions: list[Instances]) -> None:
    """Some regions are dropped, and with huge thresholds the losses are the stock head's."""
    expected = head_losses(stock.roi_heads.box_predictor, regions)()
    assert 0 < dropped["loss_box_reg"] < expected["loss_box_reg"], "nothing was dropped"
    loose = RoIDropSettings(cls_thresh=1e6, reg_thresh=1e6)
    taken = RoIDropFastRCNNOutputLayers.taking_over(stock.roi_heads.box_predictor, loose)
    found = head_losses(taken, regions)()
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-6, atol=1e-6)


def measure(network: str, name: str, side: int, repeats: int) -> Row:
    """One row of the report."""
    ours, stock = build(name, "RoIDropROIHeads"), build(name, "StandardROIHeads")
    regions = make_regions(side)
    with_drop, without = (head_losses(m.roi_heads.box_predictor, regions) for m in (ours, stock))
    check(stock, with_drop(), regions)
    added, plain = seconds([with_drop, without], LOSS_REPEATS)
    batch = make_batch(side)
    (whole,) = seconds([lambda: step(stock, batch)], repeats)
    ratio = whole / (whole + added - plain)
    return {
        "stage": "RoI drop",
        "against": "the stock head (ratio 0.98: costs 2 %)",
        "ratio": ratio,
        "target": TARGET,
        "met": ratio >= TARGET,
        "ours_s": whole + added - plain,
        "theirs_s": whole,
        "work": f"training step of {network}, 2 images of {side} pixels, {REGIONS} regions each",
        "added_ms": 1000 * (added - plain),
        "stock_losses_ms": 1000 * plain,
    }


if __name__ == "__main__":
    args = make_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    side, repeats = (224, 3) if args.quick else (480, 7)
    report([measure(*item, side, repeats) for item in NETWORKS.items()], args.json)
