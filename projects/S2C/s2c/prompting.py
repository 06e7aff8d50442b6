"""Prompts from class activation, and what SAM answers (S2C, Sec. 3.3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label as label_components
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam import Embedding, SamBackend

from .peaks import class_peaks

__all__ = ["ClassMasks", "PromptRule", "prompt_sam"]

_KINDS = ("points", "box", "mask")
_SURE = 0.999  # largest activation of a mask prompt, and one minus the least
_SOURCE = ("CPM",)


@dataclass(frozen=True)
class PromptRule:
    """How a class's activation prompts SAM.

    peaks: count, rule, radius (pixels) and tau as :func:`class_peaks` takes them. kind: ``points``
    (all peaks of a class are one prompt) or ``box`` (one for each 8-connected component of the
    activation above tau that holds a peak; their masks are united) or ``mask`` (the map as a mask
    prompt, with its highest peak). mask_index: of SAM's three.

    Raises:
        ValueError: an unknown kind, or no such mask.
    """

    count: str = "multi"
    rule: str = "lmf"
    radius: int = 20
    tau: float = 0.5
    kind: str = "points"
    mask_index: int = 2

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"MODEL.S2C.CPM_PROMPT is {self.kind!r}, allowed: {', '.join(_KINDS)}")
        if self.mask_index not in (0, 1, 2):
            raise ValueError(f"MODEL.S2C.SAM_MASK_INDEX is {self.mask_index}, allowed: 0, 1, 2")

    def prompts_of(self, cam: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points (n, 2) of one joint prompt, or boxes (m, 4) of m prompts, of one class's map.

        A map that is nowhere positive has neither, whatever the rule: it would be its first pixel.
        """
        none = np.zeros((0, 4), np.float32)
        if not bool((cam > 0).any()):
            return none[:, :2], none
        count = "single" if self.kind == "mask" else self.count
        points = class_peaks(cam, radius=self.radius, tau=self.tau, rule=self.rule, count=count)
        if self.kind != "box" or not len(points):
            return points, none
        return none[:, :2], _component_boxes(cam.cpu().numpy() > self.tau, points)


@dataclass(frozen=True)
class ClassMasks:
    """SAM's answer for each of K classes: bool masks and float32 logits, (K, H, W)."""

    masks: Tensor
    logits: Tensor


def prompt_sam(
    sam: SamBackend, image: NDArray[np.uint8], cams: Tensor, *, rule: PromptRule
) -> ClassMasks:
    """Masks of the classes whose maps are given.

    image: uint8 RGB (H, W, 3). cams: float (K, H, W), maximum about 1; a class whose map is zero
    is not asked for (its mask is empty). The image is encoded once, and only if there is a prompt.
    Logits are those of the low-resolution mask, resized bilinearly to the image; a mask is where
    they are positive.
    """
    logits = torch.full_like(cams, float("-inf"), dtype=torch.float32)
    given = [rule.prompts_of(cam) for cam in cams]
    owners, prompts = _joined(given)
    if len(owners) and rule.kind == "mask":
        embedding = sam.encode(image)
        for row, owner in enumerate(owners):
            points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
            logit = cams[owner].float().clamp(1 - _SURE, _SURE).logit()
            answer: Any = sam
            low = answer.decode_with_mask(embedding, points, logit)[rule.mask_index]
            logits[owner] = _at_image_size(low[None].to(cams.device), embedding)[0]
    elif len(owners):
        embedding = sam.encode(image)
        for chunk in sam.decode(embedding, prompts, want=frozenset({"logits"}), multimask=True):
            assert chunk.logits is not None
            chosen = chunk.logits[:, rule.mask_index].to(cams.device)
            for offset, full in enumerate(_at_image_size(chosen, embedding)):
                owner = owners[chunk.start + offset]
                logits[owner] = torch.maximum(logits[owner], full)
    return ClassMasks(logits > 0, logits)


def _joined(
    given: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[list[int], Prompts]:
    """The class of each prompt, and all prompts."""
    owners: list[int] = []
    counts: list[int] = []
    points: list[NDArray[np.float32]] = []
    boxes: list[NDArray[np.float32]] = []
    for owner, (own_points, own_boxes) in enumerate(given):
        if len(own_points):
            owners.append(owner)
            counts.append(len(own_points))
            points.append(own_points)
            boxes.append(np.full((1, 4), np.nan, np.float32))
        owners += [owner] * len(own_boxes)
        counts += [0] * len(own_boxes)
        boxes.append(own_boxes)
    number = len(owners)
    prompts = Prompts(
        points=np.concatenate([np.zeros((0, 2), np.float32), *points]),
        offsets=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        scores=np.ones(number, np.float32),
        classes=np.asarray(owners, np.int32),
        sources=np.zeros(number, np.uint8),
        source_names=_SOURCE,
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
    )
    return owners, prompts


def _component_boxes(above: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """XYXY boxes, half-open, of the components that hold a point (a pixel), in their order."""
    components, _ = label_components(above, structure=np.ones((3, 3)))
    columns, rows = points.astype(np.int64).T
    boxes = []
    for name in dict.fromkeys(components[rows, columns].tolist()):
        if name:  # a peak that is not above tau has no component
            y, x = np.nonzero(components == name)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def _at_image_size(logits: Tensor, embedding: Embedding) -> Tensor:
    """Low-resolution logits (P, h, w) as (P, H, W): the padding of SAM's square is cut off."""
    height, width = embedding.input_size
    same = logits.shape[-2:] == embedding.image_size
    maps = logits.float()[:, None]
    if height != width and not same:
        side = max(height, width)
        maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
        maps = maps[..., :height, :width]
    if maps.shape[-2:] != embedding.image_size:
        maps = F.interpolate(maps, size=embedding.image_size, mode="bilinear", align_corners=False)
    return maps[:, 0]
