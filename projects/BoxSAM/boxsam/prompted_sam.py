"""Pseudo labels without training: the prompts of classes, SAM's masks, a label map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import LabelSpace, Prompts, PromptSet
from weaksam_d2.data import read_image
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY, LabelResult, required_input
from weaksam_d2.sam import SamBackend, SamChunk, build_sam_backend, sam_weights

from .fuse import FuseSettings, Instance, fuse_instances, label_flags
from .grouping import group_masks_in_box
from .proposal_source import OpenVocabularyPrompts

__all__ = ["PromptedSAM", "prompted_instances"]


@LABEL_SOURCE_REGISTRY.register()
class PromptedSAM:
    """Each stored prompt with a class is an object: SAM's mask of the highest predicted IoU.

    Points of one prompt (all peaks of a class) are one object; a box prompt is one as in BoxSAM.
    ``--input`` is a prompt set, of ``CoarseCAMPeaks`` or ``FineCAMPeaks`` (their classes are the
    image's tags, or what the classifier predicts) or of ``OpenVocabularyPrompts``.
    """

    reads = "prompts"
    system = "PromptedSAM"
    base = "custom"
    declared_keys = ("WEAKSAM.SAM", "BOXSAM.FUSE", "BOXSAM.SEGMENTER.MIN_OVERLAP")

    def __init__(self, cfg: Any, inputs: Mapping[str, Path], space: LabelSpace) -> None:
        """Open the prompts and build SAM.

        Raises:
            ValueError: no prompts, prompts of other classes, or an order that needs logits.
        """
        path = required_input(inputs, "input", "a prompt set (tools/generate_prompts.py)")
        self.prompts = PromptSet.open(path)
        names = list(space.classes[1:])
        if self.prompts.class_names != names:
            raise ValueError(
                f"{path} has prompts of the classes {self.prompts.class_names}, the data set has "
                f"{names}"
            )
        self.fuse = FuseSettings.from_node(cfg.BOXSAM.FUSE)
        if self.fuse.order == "logit":
            raise ValueError("BOXSAM.FUSE.ORDER 'logit' is of BoxSAM; PromptedSAM has area, score")
        self.min_overlap = float(cfg.BOXSAM.SEGMENTER.MIN_OVERLAP)
        self.backend: SamBackend = build_sam_backend(cfg)
        # What CAM peaks know comes from image-level labels; a detector's boxes from its tagger.
        boxes_only = self.prompts.source_names == (OpenVocabularyPrompts.name,)
        untold = boxes_only and cfg.BOXSAM.TAGGER.MODE != "given"
        self.supervision = "none" if untold else "image_labels"

    @staticmethod
    def weight_files(cfg: Any) -> list[tuple[str, Path]]:
        """(name, file) pairs of what is loaded."""
        sam = sam_weights(cfg)
        return [] if sam is None else [("sam", sam)]

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        """Label one image.

        Raises:
            KeyError: an image without prompts. ValueError: a prompt without a class.
        """
        image_id = str(record["image_id"])
        prompts = self.prompts[image_id]
        if (prompts.classes < 0).any():
            row = int(np.flatnonzero(prompts.classes < 0)[0])
            source = prompts.source_names[int(prompts.sources[row])]
            raise ValueError(
                f"prompt {row} of image {image_id!r} ({source}) has no class; generate prompts "
                "with WEAKSAM.PROMPTS.SOURCES of sources that know it (CoarseCAMPeaks)"
            )
        image = read_image(record["file_name"], "RGB")
        instances, flags = prompted_instances(
            image, prompts, self.backend, min_overlap=self.min_overlap
        )
        label = fuse_instances(instances, (image.shape[0], image.shape[1]), self.fuse)
        tags = sorted(set(prompts.classes.tolist()))
        flags = (*label_flags(tags, [one.category for one in instances], label), *flags)
        return LabelResult(label, flags, tuple(tags))


def prompted_instances(
    image: np.ndarray, prompts: Prompts, backend: SamBackend, *, min_overlap: float
) -> tuple[list[Instance], tuple[str, ...]]:
    """An instance for each prompt of an RGB uint8 image (H, W, 3) with a mask, and flags.

    The image is not encoded where there is no prompt.
    """
    if not len(prompts):
        return [], ()
    instances, flags = [], []
    boxes = torch.from_numpy(prompts.filled_boxes())
    chunks = backend.decode(
        backend.encode(image), prompts, want=frozenset({"masks"}), multimask=True
    )
    for chunk in chunks:
        for row, mask, found in _chosen(chunk, boxes, min_overlap):
            category = int(prompts.classes[row])
            flags += [f"{flag}:{category + 1}" for flag in found]
            if bool(mask.any()):
                score = float(prompts.scores[row])
                instances.append(Instance(category, score, mask.cpu().numpy()))
    return instances, tuple(dict.fromkeys(flags))


def _chosen(
    chunk: SamChunk, boxes: Tensor, min_overlap: float
) -> list[tuple[int, Tensor, tuple[str, ...]]]:
    """Prompt, its mask bool (H, W) and flags."""
    if chunk.masks is None:
        raise ValueError("the SAM backend gives no masks")
    result = []
    for number, (masks, quality) in enumerate(zip(chunk.masks, chunk.quality, strict=True)):
        row = chunk.start + number
        if bool(boxes[row].isfinite().all()):
            box = boxes[row].to(masks.device)
            mask, flags = group_masks_in_box(masks, quality, box, threshold=min_overlap)
        else:
            mask = masks[int(quality.argmax())]
            flags = () if bool(mask.any()) else ("empty_mask",)
        result.append((row, mask, flags))
    return result
