"""Boxes to masks: SAM asked for each box, once for all boxes of an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import Prompts, ProposalStore
from weaksam_d2.ops import decode_rle
from weaksam_d2.sam import Embedding, SamBackend, build_sam_backend
from weaksam_d2.sam.upsampling import interpolation_matrix

from .boxes import ClassBoxes
from .fuse import Instance
from .grouping import MODES, choose_mask, group_masks_in_box

__all__ = ["BoxMask", "BoxSegmenter", "box_prompts", "build_segmenter"]

_LOGIT_STRIDE = 4  # pixels of SAM's square input for each logit


@dataclass(frozen=True)
class BoxMask:
    """One box: its mask bool (H, W), flags, and SAM's logits where they were asked for."""

    mask: Tensor
    flags: tuple[str, ...]
    logits: Tensor | None = None


class BoxSegmenter:
    """Masks of boxes, cut off at the boxes (:func:`group_masks_in_box`).

    Args:
        backend: SAM. It encodes an image only if one of its boxes needs a prompt.
        mode: multimask, everything or predicted_iou.
        min_overlap: least IoU of a mask and the filled box.
        automatic: store of the "everything" masks of each image, for the mode ``everything``.
        with_logits: instances have SAM's logits at image resolution.

    Raises:
        ValueError: an unknown mode, ``everything`` without masks or with logits, a value outside
            of [0, 1].
    """

    def __init__(
        self,
        backend: SamBackend,
        *,
        mode: str = "multimask",
        min_overlap: float = 0.3,
        automatic: ProposalStore | None = None,
        with_logits: bool = False,
    ) -> None:
        if mode not in MODES or not 0 <= min_overlap <= 1:
            raise ValueError(
                f"BOXSAM.SEGMENTER has MODE {mode!r} and MIN_OVERLAP {min_overlap}; expected one "
                f"of {', '.join(MODES)} and 0 to 1"
            )
        if mode == "everything" and automatic is None:
            raise ValueError(
                "BOXSAM.SEGMENTER.MODE 'everything' needs the masks of the images: make them with "
                "tools/generate_proposals.py and configs/SAM-Masks, and name them with --masks"
            )
        if mode == "everything" and with_logits:
            raise ValueError(
                "BOXSAM.SEGMENTER.MODE 'everything' and FUSE.ORDER 'logit' contradict each other: "
                "stored masks have no logits"
            )
        self.backend = backend
        self.mode = mode
        self.min_overlap = min_overlap
        self.automatic = automatic
        self.with_logits = with_logits

    def __call__(
        self, record: Mapping[str, Any], image: np.ndarray, found: ClassBoxes
    ) -> tuple[list[Instance], tuple[str, ...]]:
        """Instances of the boxes of an RGB uint8 image (H, W, 3), and flags.

        A box whose mask is empty gives no instance. Flags: ``low_overlap:<label id>`` and
        ``empty_mask:<label id>``.
        """
        if not len(found):
            return [], ()
        results = self.masks(record, image, torch.from_numpy(found.boxes))
        instances, flags = [], []
        for row, result in enumerate(results):
            category = int(found.classes[row])
            flags += [f"{flag}:{category + 1}" for flag in result.flags]
            if "empty_mask" in result.flags:
                continue
            logits = None if result.logits is None else result.logits.cpu().numpy()
            mask = result.mask.cpu().numpy()
            instances.append(Instance(category, float(found.scores[row]), mask, logits))
        return instances, tuple(dict.fromkeys(flags))

    def masks(self, record: Mapping[str, Any], image: np.ndarray, boxes: Tensor) -> list[BoxMask]:
        """The mask of each box float32 (n, 4), XYXY in pixels; an empty one is flagged."""
        if not len(boxes):
            return []
        if self.mode != "everything":
            return self._prompted(self.backend.encode(image), boxes, self.mode)
        grouped = [self._grouped(record, box) for box in boxes]
        rest = [row for row, one in enumerate(grouped) if "ungrouped" in one.flags]
        if rest:
            prompted = self._prompted(self.backend.encode(image), boxes[rest], "multimask")
            for row, one in zip(rest, prompted, strict=True):
                grouped[row] = one
        return grouped

    def _prompted(self, embedding: Embedding, boxes: Tensor, mode: str) -> list[BoxMask]:
        want = frozenset({"masks", "logits"} if self.with_logits else {"masks"})
        results: list[BoxMask] = []
        prompts = box_prompts(boxes.numpy())
        for chunk in self.backend.decode(embedding, prompts, want=want, multimask=True):
            if chunk.masks is None:
                raise ValueError(f"the SAM backend {type(self.backend).__name__} gives no masks")
            for row, (masks, quality) in enumerate(zip(chunk.masks, chunk.quality, strict=True)):
                box = boxes[chunk.start + row].to(masks.device)
                mask, flags = group_masks_in_box(
                    masks, quality, box, mode=mode, threshold=self.min_overlap
                )
                logits = None
                if chunk.logits is not None:
                    index, _ = choose_mask(
                        masks, quality, box, mode=mode, threshold=self.min_overlap
                    )
                    logits = _at_size(chunk.logits[row, index], embedding)
                results.append(BoxMask(mask, flags, logits))
        return results

    def _grouped(self, record: Mapping[str, Any], box: Tensor) -> BoxMask:
        assert self.automatic is not None
        stored = self.automatic[str(record["image_id"])]
        if stored.masks is None or stored.scores is None:
            raise ValueError(
                f"{self.automatic.path} has no masks with scores; generate it with "
                "WEAKSAM.PROPOSALS.SAVE_MASKS True"
            )
        masks = torch.from_numpy(decode_rle(stored.masks, stored.image_size))
        scores = torch.from_numpy(np.array(stored.scores, np.float32))
        mask, flags = group_masks_in_box(
            masks, scores, box, mode="everything", threshold=self.min_overlap
        )
        return BoxMask(mask, flags)


def box_prompts(boxes: np.ndarray, *, name: str = "Box") -> Prompts:
    """Prompts of boxes float32 (n, 4), XYXY in pixels, without a class, of score 1."""
    count = len(boxes)
    return Prompts(
        points=np.zeros((0, 2), np.float32),
        offsets=np.zeros(count + 1, np.int64),
        scores=np.ones(count, np.float32),
        classes=np.full(count, -1),
        sources=np.zeros(count, np.uint8),
        source_names=(name,),
        boxes=boxes,
    )


def _at_size(logits: Tensor, embedding: Embedding) -> Tensor:
    """Low-resolution logits (h, w) at image resolution, float32 (H, W)."""
    if tuple(logits.shape) == embedding.image_size:
        return logits.float()
    rows, columns = (
        interpolation_matrix(low, _LOGIT_STRIDE * low, crop, size).to(logits)
        for low, crop, size in zip(
            logits.shape, embedding.input_size, embedding.image_size, strict=True
        )
    )
    return (rows @ logits @ columns.T).float()


def build_segmenter(cfg: Any, masks: ProposalStore | None = None) -> BoxSegmenter:
    """The segmenter of ``BOXSAM.SEGMENTER`` with the backend of ``WEAKSAM.SAM``."""
    node = cfg.BOXSAM.SEGMENTER
    return BoxSegmenter(
        build_sam_backend(cfg),
        mode=node.MODE,
        min_overlap=node.MIN_OVERLAP,
        automatic=masks,
        with_logits=cfg.BOXSAM.FUSE.ORDER == "logit",
    )
