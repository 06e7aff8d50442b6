"""A tiny Mask2Former and samples for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from weaksam_d2.projects.mask2former import Mask2Former, add_mask2former_config

from weaksam_d2.engine import cli

TINY = (
    *("MODEL.META_ARCHITECTURE", "Mask2Former", "MODEL.DEVICE", "cpu", "MODEL.MASK_ON", True),
    *("MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", "test_efficientnet"),
    *("MODEL.TIMM.OUT_INDICES", (1, 2, 3, 4), "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
    *("MODEL.MASK2FORMER.IN_FEATURES", ("c2", "c3", "c4", "c5")),
    *("MODEL.MASK2FORMER.HIDDEN_DIM", 32, "MODEL.MASK2FORMER.NUM_HEADS", 4),
    *("MODEL.MASK2FORMER.ENCODER_LAYERS", 1, "MODEL.MASK2FORMER.ENCODER_FFN_DIM", 32),
    *("MODEL.MASK2FORMER.DECODER_LAYERS", 2, "MODEL.MASK2FORMER.DECODER_FFN_DIM", 32),
    *("MODEL.MASK2FORMER.NUM_QUERIES", 10, "MODEL.MASK2FORMER.NUM_POINTS", 64),
    *("INPUT.MAPPER_NAME", "Mask2FormerMapper", "INPUT.LSJ.SIZE", 64, "INPUT.FORMAT", "RGB"),
)


@pytest.fixture()
def tiny_cfg() -> Callable[..., Any]:
    """Config of a model with 10 queries and 2 decoder layers; takes further keys and values."""

    def make(*changes: Any) -> Any:
        cfg = cli.base_config(add_mask2former_config)
        cfg.merge_from_list([*TINY, *changes])
        return cfg

    return make


@pytest.fixture()
def tiny_model(tiny_cfg: Callable[..., Any]) -> Callable[..., Mask2Former]:
    def make(*changes: Any) -> Mask2Former:
        torch.manual_seed(0)
        return Mask2Former(tiny_cfg(*changes))

    return make


@pytest.fixture()
def sample() -> Callable[..., dict[str, Any]]:
    """An image of noise with a rectangle for each class given."""

    def make(*classes: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        masks = torch.zeros((len(classes), *size), dtype=torch.bool)
        for number in range(len(classes)):
            masks[number, 8 * number : 8 * number + 16, 8:40] = True
        instances = Instances(size)
        if classes:
            instances.gt_masks = BitMasks(masks)
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        else:
            instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
        found = {"image": image, "instances": instances, "image_id": str(seed), "file_name": "x"}
        return {**found, "height": size[0], "width": size[1]}

    return make
