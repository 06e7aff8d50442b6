"""Which training images fit their pseudo boxes: those of the smallest detector loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.data.detection_utils import build_augmentation
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm

from weaksam_d2.data import register_pseudo_gt_of
from weaksam_d2.ops.random_state import preserved_random_state

__all__ = ["LOSSES", "clean_split", "image_losses", "split_records"]

LOSSES = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg")
_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def split_records(cfg: Any) -> list[dict[str, Any]]:
    """Images of ``DATASETS.TRAIN`` with the boxes of ``DATASETS.PSEUDO_GT_TRAIN``.

    An image without a box has no place in the order and is left out.

    Raises:
        ValueError: not one file for each data set, or no image with a box.
    """
    names, files = cfg.DATASETS.TRAIN, cfg.DATASETS.PSEUDO_GT_TRAIN
    if not files or len(files) != len(names):
        raise ValueError(
            f"DATASETS.PSEUDO_GT_TRAIN has {len(files)} files for the {len(names)} sets of "
            f"DATASETS.TRAIN {tuple(names)}; give one for each"
        )
    sets = [register_pseudo_gt_of(name, file) for name, file in zip(names, files, strict=True)]
    records = get_detection_dataset_dicts(sets, filter_empty=False)
    boxed = [record for record in records if record["annotations"]]
    if not boxed:
        raise ValueError(f"no image of {', '.join(files)} has a pseudo box")
    return boxed


def image_losses(
    cfg: Any, model: nn.Module, records: Sequence[dict[str, Any]], *, seed: int = 0
) -> dict[str, float]:
    """Sum of the four R-CNN losses of each image with its pseudo boxes, by image id.

    The model is not changed; normalization uses its running statistics, images have the size of
    tests and are not mirrored. Anchors and regions are sampled from ``seed``, for every image
    anew, so an image's loss does not depend on the others. Build the model with
    ``MODEL.ROI_DROP.MODE "off"``: a dropped region would hide what is looked for.

    Raises:
        ValueError: a model without these losses. FloatingPointError: a loss is not finite.

    Source: SoS-WSOD (Sui et al., 2022), Sec. 3.3; extras.md, Sec. 4.
    """
    if not isinstance(model, GeneralizedRCNN):
        raise ValueError(
            f"a {type(model).__name__} has no R-CNN losses; expected a retrained Faster R-CNN"
        )
    mapper = DatasetMapper(
        True, augmentations=build_augmentation(cfg, False), image_format=cfg.INPUT.FORMAT
    )
    training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, _NORMS):
            module.eval()
    found: dict[str, float] = {}
    with torch.no_grad(), EventStorage(), preserved_random_state():
        for record in tqdm(records, unit="image"):
            torch.manual_seed(seed)
            losses = model([mapper(record)])
            if missing := [name for name in LOSSES if name not in losses]:
                raise ValueError(f"the model gives no {missing[0]}, only {', '.join(losses)}")
            total = float(sum(losses[name] for name in LOSSES))
            if not total < float("inf"):  # also NaN
                raise FloatingPointError(f"the loss of image {record['image_id']} is {total}")
            found[str(record["image_id"])] = total
    model.train(training)
    return found


def clean_split(losses: Mapping[str, float], count: int) -> tuple[list[str], list[str]]:
    """Ids of the ``count`` images of smallest loss, and of the others, each in the given order.

    Of equal losses the earlier image is cleaner.

    Raises:
        ValueError: ``count`` is not from 1 to the number of images.
    """
    if not 1 <= count <= len(losses):
        raise ValueError(
            f"the clean part shall have {count} images, expected 1 to {len(losses)}, the number of "
            "images with a pseudo box"
        )
    chosen = set(sorted(losses, key=lambda name: losses[name])[:count])
    return [n for n in losses if n in chosen], [n for n in losses if n not in chosen]
