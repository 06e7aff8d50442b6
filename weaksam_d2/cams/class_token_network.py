"""What WeakTr and MCTformer share as CAM networks: channels, losses by image, maps of a view."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.ops.class_tokens import class_attention, propagate

from .checkpoints import load_published
from .class_token_vit import BlockAttention, ClassTokenViT
from .classifier import CamNetwork, ViewMaps

__all__ = ["ClassTokenNetwork", "Clues", "channel_table"]

_CHANNELS = ("contiguous", "coco_category_ids")
_COCO_CHANNELS = 90  # category ids 1 to 90, of which 80 are used


class Clues(NamedTuple):
    """What a network makes of its attention for m classes in n patches.

    coarse (m, n); seed (m, n), which the patch attention spreads to the fine map; weights
    (blocks, heads) of the patch attention.
    """

    coarse: Tensor
    seed: Tensor
    weights: Tensor


class ClassTokenNetwork(CamNetwork):
    """A :class:`ClassTokenViT` with losses and maps; subclasses say how attention is combined.

    The attention maps are computed from the blocks' queries and keys in chunks of rows and never
    stored (the released code stacks all of them).
    """

    checkpoint_kind: str  # what a published checkpoint of this network is called

    def __init__(
        self,
        *,
        vit: ClassTokenViT,
        channels: Sequence[int],
        cross_blocks: tuple[int, int] | None = None,
    ) -> None:
        """Wrap a transformer.

        Args:
            vit: with as many class tokens as the network has channels.
            channels: channel of each contiguous class.
            cross_blocks: first and last block, from 1, whose class-to-patch attention is given;
                None: none.

        Raises:
            ValueError: blocks that the transformer does not have.
        """
        super().__init__()
        self.vit = vit
        self.channels: Tensor
        self.register_buffer("channels", torch.tensor(list(channels), dtype=torch.int64), False)
        self.kinds = ("coarse", "fine")
        if cross_blocks is not None:
            first, last = cross_blocks
            if not 1 <= first <= last <= vit.depth:
                raise ValueError(
                    f"WEAKSAM.CAMS.CROSS_BLOCKS is {(first, last)}, expected first <= last from 1 "
                    f"to {vit.depth}, the number of blocks"
                )
            self.kinds = ("coarse", "fine", "cross")
            self.heads, self.blocks = vit.heads, tuple(range(first, last + 1))

    @staticmethod
    def common_arguments(cfg: Any) -> dict[str, Any]:
        """``channels`` and ``cross_blocks`` from ``MODEL.CLASSIFIER`` and ``WEAKSAM.CAMS``."""
        cams = cfg.WEAKSAM.CAMS
        return {
            "channels": channel_table(
                cfg.MODEL.CLASSIFIER.CHANNELS, cfg.MODEL.ROI_HEADS.NUM_CLASSES
            )[0],
            "cross_blocks": tuple(cams.CROSS_BLOCKS) if cams.SAVE_CROSS else None,
        }

    def load_weights(self, source: str) -> None:
        """Load published weights, or an ImageNet file as initialization; "" loads nothing."""
        if source:
            self.pretrained = load_published(self, source, kind=self.checkpoint_kind, vit=self.vit)

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """In training one tensor for each loss term, in evaluation the class tokens' alone.

        Images of different sizes pass one by one: padding would take part in the attention.
        """
        whole = (images.shape[-2], images.shape[-1])
        if sizes is None or all(tuple(size) == whole for size in sizes):
            return self._logits(images)
        alone = [self._logits(images[i : i + 1, :, :h, :w]) for i, (h, w) in enumerate(sizes)]
        return [torch.cat(term) for term in zip(*alone, strict=True)]

    def _logits(self, images: Tensor) -> list[Tensor]:
        if self.training:
            terms = self.loss_terms(images)
        else:
            terms = [self.vit.token_logits(self.vit.tokens(images))]
        return [term[:, self.channels] for term in terms]

    def loss_terms(self, images: Tensor) -> list[Tensor]:
        """Logits (N, C) of all channels for each loss term; the class tokens' come first."""
        raise NotImplementedError(f"{type(self).__name__} does not implement loss_terms")

    def clues(self, seen: Sequence[BlockAttention], rows: Tensor, scores: Tensor | None) -> Clues:
        """Combine the attention of one view.

        seen: the blocks. rows: class-to-patch attention (blocks, heads, m, n). scores: positive
        part of the patch head (m, n); None without head.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement clues")

    @torch.no_grad()
    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Coarse, fine and (if asked for) cross-attention maps of one view (3, H, W).

        The view's right and bottom remainder after whole patches of 16 pixels has no part.
        """
        grid = self.vit.grid(image)
        channels = self.channels[classes]
        seen: list[BlockAttention] = []
        tokens = self.vit.tokens(image[None], seen.append)
        num = self.vit.num_channels
        rows = torch.stack([class_attention(b.query, b.key, channels, num)[0] for b in seen])
        scores = None
        if self.vit.head is not None:
            scores = F.relu(self.vit.patch_scores(tokens, grid)[0, channels]).flatten(1)
        clues = self.clues(seen, rows, scores)
        values = clues.seed.T[None].contiguous()
        fine = torch.zeros_like(values)
        for block, weights in zip(seen, clues.weights, strict=True):
            fine += propagate(block.query, block.key, values, weights[None])
        cross = None
        if self.blocks:
            chosen = rows[self.blocks[0] - 1 : self.blocks[-1]]
            cross = chosen.permute(2, 1, 0, 3).unflatten(3, grid)
        return ViewMaps(clues.coarse.unflatten(1, grid), fine[0].T.unflatten(1, grid), cross)


def channel_table(setting: str, num_classes: int) -> tuple[list[int], int]:
    """The network's channel of each contiguous class, and the number of channels.

    setting "contiguous": channel = class. "coco_category_ids": channel = COCO category id - 1,
    of 90; the ten ids that COCO does not use have a channel and no class.

    Raises:
        ValueError: another setting, or COCO's ids with other than its 80 classes.
    """
    if setting not in _CHANNELS:
        raise ValueError(f"MODEL.CLASSIFIER.CHANNELS is {setting!r}, allowed: {_CHANNELS}")
    if setting == "contiguous":
        return list(range(num_classes)), num_classes
    ids = sorted(category["id"] for category in COCO_CATEGORIES if category["isthing"])
    if num_classes != len(ids):
        raise ValueError(
            f"MODEL.CLASSIFIER.CHANNELS coco_category_ids needs COCO's {len(ids)} classes, "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
        )
    return [category_id - 1 for category_id in ids], _COCO_CHANNELS
