"""From queries to instances or to class maps, at the size of the original image."""

from collections.abc import Iterator

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

__all__ = ["class_maps", "find_instances", "resized_masks"]

# Floats of resized masks in memory at once (128 MB).
_BUDGET = 2**25


def resized_masks(
    masks: Tensor, *, canvas: tuple[int, int], image_size: tuple[int, int], size: tuple[int, int]
) -> Iterator[Tensor]:
    """Maps (k, h, w) at the size (height, width) of the original image, some at a time.

    canvas: size of the padded input, that the maps cover. image_size: the part of it, from the
    upper left corner, that is the image. Both steps are bilinear, as in the official code.
    """
    rows = max(1, _BUDGET // max(canvas[0] * canvas[1], size[0] * size[1]))
    for part in masks.float().split(rows):
        part = F.interpolate(part[None], size=canvas, mode="bilinear", align_corners=False)
        part = part[..., : image_size[0], : image_size[1]]
        part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        yield part[0]


def find_instances(
    logits: Tensor,
    masks: Tensor,
    *,
    top: int,
    canvas: tuple[int, int],
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> Instances:
    """The ``top`` best of all pairs of query and class of one image, by falling score.

    logits: (Q, C + 1). masks: (Q, h, w) logits, resized as by :func:`resized_masks`. A score is
    the probability of the class times the mean probability of the mask's own pixels. A query
    whose mask is empty finds nothing. Returns ``pred_masks`` bool (n, height, width),
    ``pred_boxes`` (tight around the masks), ``scores`` and ``pred_classes``.
    Source: Mask2Former, official inference.
    """
    num_classes = logits.shape[1] - 1
    probability = logits.float().softmax(dim=1)[:, :-1].flatten()
    scores, pairs = probability.topk(min(top, len(probability)))
    queries, place = (pairs // num_classes).unique(return_inverse=True)
    found, quality = [], []
    for part in resized_masks(masks[queries], canvas=canvas, image_size=image_size, size=size):
        inside = part > 0
        sums = (part.sigmoid() * inside).flatten(1).sum(dim=1)
        quality.append(sums / (inside.flatten(1).sum(dim=1) + 1e-6))
        found.append(inside)
    scores = scores * torch.cat(quality)[place]
    pixels = torch.cat(found)
    occupied = pixels.flatten(1).any(dim=1)[place]
    order = scores.argsort(descending=True, stable=True)
    order = order[occupied[order]]
    chosen = place[order]
    instances = Instances(size)
    instances.pred_masks = pixels[chosen]
    boxes = BitMasks(pixels).get_bounding_boxes().tensor.to(scores.device)
    instances.pred_boxes = Boxes(boxes[chosen])
    instances.scores = scores[order]
    instances.pred_classes = (pairs % num_classes)[order]
    return instances


def class_maps(
    logits: Tensor,
    masks: Tensor,
    *,
    canvas: tuple[int, int],
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Scores (C, height, width) of classes: mask probabilities, weighted by class probabilities.

    Arguments as :func:`find_instances`. Masks are joined at the network's input size and then
    resized. Source: MaskFormer, Sec. 3.4.
    """
    probability = logits.float().softmax(dim=1)[:, :-1]
    upsampled = F.interpolate(masks.float()[None], size=canvas, mode="bilinear")[0]
    maps = torch.einsum("qc,qhw->chw", probability, upsampled.sigmoid())
    resized = resized_masks(maps, canvas=canvas, image_size=image_size, size=size)
    return torch.cat(list(resized))
