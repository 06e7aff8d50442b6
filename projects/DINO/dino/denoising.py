"""Contrastive denoising: queries that start at noised true boxes and need no matching."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from .outputs import ImageTargets

__all__ = ["EMPTY_SLOT", "NEGATIVE_SLOT", "Denoising", "make_denoising"]

NEGATIVE_SLOT = -1  # a query that has to say "background"
EMPTY_SLOT = -2  # of an image with fewer objects than the largest; adds to no loss


@dataclass(frozen=True)
class Denoising:
    """The denoising queries of a batch, which stand in front of the others.

    ``groups`` groups of ``group_size`` positive and then ``group_size`` negative slots, P in all.
    Slot j of both halves belongs to object j of the image.

    classes: int64 (N, P), the class whose embedding is the content; 0 in an empty slot.
    boxes: float32 (N, P, 4), noised, (center x, center y, width, height) in [0, 1].
    targets: int64 (N, P), index of the object of a positive slot, else :data:`NEGATIVE_SLOT` or
    :data:`EMPTY_SLOT`.

    Source: DINO, Sec. 3.3; extras.md, Sec. 1.2.
    """

    classes: Tensor
    boxes: Tensor
    targets: Tensor
    groups: int
    group_size: int

    def attention_mask(self, num_queries: int) -> Tensor:
        """Who may attend to whom: bool (P + Q, P + Q), row attends to column where True.

        A matching query sees the Q matching queries only (it would read its answer from the
        others), a denoising query its own group and the matching queries.
        """
        size = 2 * self.group_size
        group = torch.arange(self.groups, device=self.targets.device).repeat_interleave(size)
        group = torch.cat([group, group.new_full((num_queries,), -1)])
        return (group[:, None] == group[None]) | (group[None] == -1)


def make_denoising(
    targets: Sequence[ImageTargets],
    *,
    num_classes: int,
    number: int,
    label_noise: float,
    box_noise: float,
    generator: Generator | None = None,
) -> Denoising | None:
    """Make the denoising queries of a batch; None if ``number`` is 0 or no image has an object.

    With g objects in the image that has most there are ``max(1, number // g)`` groups of 2 g
    queries. Each class is replaced by a random one with probability ``label_noise / 2``. Each
    corner coordinate moves by ``box_noise * u`` half sides in a random direction, with u in [0, 1)
    in positive slots and in [1, 2) in negative ones, and not out of the image; corners that pass
    each other leave a side of 0.

    Args:
        targets: objects of each image, all on one device.
        num_classes: C; random classes are in [0, C).
        number: about how many pairs of a positive and a negative query an image gets.
        label_noise: see above.
        box_noise: see above.
        generator: of the device of the targets; None: PyTorch's own.

    Source: DINO, Sec. 3.3; extras.md, Sec. 1.2.
    """
    counts = [len(one.classes) for one in targets]
    size = max(counts, default=0)
    if number == 0 or size == 0:
        return None
    groups = max(1, number // size)
    classes = pad_sequence([one.classes for one in targets], batch_first=True)
    boxes = pad_sequence([one.boxes.float() for one in targets], batch_first=True)
    device = boxes.device
    shape = (len(targets), groups, 2, size)  # positive and negative half
    random = torch.rand((2, *shape), device=device, generator=generator)
    drawn = (random[1] * num_classes).long().clamp(max=num_classes - 1)
    noisy = torch.where(random[0] < label_noise / 2, drawn, classes[:, None, None])
    noise = torch.rand((2, *shape, 4), device=device, generator=generator)
    share = noise[0] + torch.arange(2, device=device)[:, None, None]  # u
    moved = noised_boxes(boxes[:, None, None], share * box_noise, noise[1] < 0.5)

    index = torch.arange(size, device=device)
    slots = torch.stack([index, torch.full_like(index, NEGATIVE_SLOT)]).expand(shape)
    present = index < torch.tensor(counts, device=device)[:, None]
    present = present[:, None, None].expand(shape)
    return Denoising(
        classes=torch.where(present, noisy, 0).flatten(1),
        boxes=moved.flatten(1, 3),
        targets=torch.where(present, slots, EMPTY_SLOT).flatten(1),
        groups=groups,
        group_size=size,
    )


def noised_boxes(boxes: Tensor, share: Tensor, forward: Tensor) -> Tensor:
    """Move the corners of boxes by shares of half their sides, within [0, 1].

    boxes: (..., 4) center form in [0, 1]. share: (..., 4), of half the width for x1 and x2, of
    half the height for y1 and y2. forward: bool (..., 4), True moves right or down. Returns
    (..., 4) center form; a side that would be negative is 0.
    """
    half = boxes[..., 2:].repeat(*(1 for _ in boxes.shape[:-1]), 2) / 2
    step = torch.where(forward, share, -share) * half
    corners = (box_convert(boxes, "cxcywh", "xyxy") + step).clamp(0, 1)
    centers, sides = box_convert(corners, "xyxy", "cxcywh").split(2, dim=-1)
    return torch.cat([centers, sides.clamp(min=0)], dim=-1)
