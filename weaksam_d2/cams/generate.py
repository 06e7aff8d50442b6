"""Activation maps of data set records, over scales and mirror images, into a store."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.artifacts import CamMaps, CamStoreWriter
from weaksam_d2.data import DamagedImageError, read_image

from .classifier import ImageClassifier, ViewMaps

__all__ = ["CamsSummary", "generate_cams", "view_size"]

logger = logging.getLogger(__name__)

_GATES = ("gt", "pred")
_KINDS = ("coarse", "fine", "cross")
# A photo of more than 4000 pixels is looked at with 2000 (weaksam.md, Appendix B, row 2).
_MAX_SIDE, _WORKING_SIDE = 4000, 2000
_ROUNDING = 1e-6  # pixels; 1.1 * 160 is 176 and not the multiple after it
_RESIZES: dict[str, Callable[[float], int]] = {
    "round16": lambda side: max(16, math.floor(side / 16 + 0.5) * 16),
    "floor16": lambda side: max(1, math.floor(side + 0.5)),
    "ceil16": lambda side: max(16, math.ceil((side - _ROUNDING) / 16) * 16),
}


@dataclass
class CamsSummary:
    """What was written: images, (image, class) rows, and skipped (image id, reason) pairs."""

    images: int = 0
    maps: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """The summary as JSON values: numbers, and a list of what was skipped and why."""
        skipped = [{"image_id": image_id, "reason": reason} for image_id, reason in self.skipped]
        return {"images": self.images, "maps": self.maps, "skipped": skipped}


def view_size(size: tuple[int, int], scale: float, *, resize: str = "round16") -> tuple[int, int]:
    """(height, width) of the view of an image at a scale.

    resize "round16" is the nearest multiple of 16 (at least 16), "ceil16" the next one (CLIP-ES),
    "floor16" the rounded side, of which a patch embedding takes whole patches (released code).
    Multiples of the patch size, because a network that drops a remainder drops the right side of
    a view and the left side of its mirror image, and the two maps no longer fit.

    Raises:
        ValueError: an unknown resize, or a scale that is not positive.
    """
    if resize not in _RESIZES:
        allowed = ", ".join(_RESIZES)
        raise ValueError(f"WEAKSAM.CAMS.RESIZE is {resize!r}, allowed: {allowed}")
    if not scale > 0:
        raise ValueError(f"scale {scale} of WEAKSAM.CAMS.SCALES must be positive")
    if max(size) > _MAX_SIDE:
        scale *= _WORKING_SIDE / max(size)
    height, width = (_RESIZES[resize](scale * side) for side in size)
    return height, width


@torch.no_grad()
def generate_cams(
    records: Iterable[Mapping[str, Any]],
    classifier: ImageClassifier,
    *,
    writer: CamStoreWriter,
    scales: Sequence[float] = (1.0, 0.8, 1.2),
    flip: bool = True,
    resize: str = "round16",
    gate: str = "gt",
    pred_logit: float = -0.5,
    read_image: Callable[..., np.ndarray] = read_image,
    on_progress: Callable[[int], Any] | None = None,
) -> CamsSummary:
    """Write the activation maps of each record's present classes (weaksam.md, Sec. 2.4, 2.6).

    gate "gt": the classes of ``record["image_labels"]``; "pred": those whose logit in the first
    view is above pred_logit, or the best one if there is none; tags are not read then. An image
    without classes and one that cannot be read keep their place with no maps; the latter are
    listed in the summary. on_progress is called with 1 after each image.

    Raises:
        ValueError: no scale, an unknown gate or resize, a record whose size is not the image's,
            or an image label that the classifier does not have.
    """
    if not scales:
        raise ValueError("WEAKSAM.CAMS.SCALES is empty, expected at least one scale such as 1.0")
    if gate not in _GATES:
        raise ValueError(f"gate is {gate!r}, allowed: {', '.join(_GATES)}")
    classifier.eval()
    summary = CamsSummary()
    for record in records:
        image_id = str(record["image_id"])
        try:
            image = read_image(record["file_name"], classifier.input_format)
        except DamagedImageError as error:
            logger.warning("image %s is skipped: %s", image_id, error)
            summary.skipped.append((image_id, str(error)))
            size = (int(record["height"]), int(record["width"]))
            maps = _no_maps(classifier, size, len(scales), gate)
        else:
            size = _checked_size(record, image)
            views = _views(classifier, image, scales, flip, resize)
            classes = _present_classes(classifier, record, views[0][0], gate, pred_logit)
            maps = _no_maps(classifier, size, len(scales), gate)
            if len(classes):
                maps = _cam_maps(classifier, views, classes, size, gate)
        writer.add(image_id, maps)
        summary.images += 1
        summary.maps += len(maps.classes)
        if on_progress is not None:
            on_progress(1)
    return summary


def _checked_size(record: Mapping[str, Any], image: np.ndarray) -> tuple[int, int]:
    size = (image.shape[0], image.shape[1])
    expected = (record.get("height", size[0]), record.get("width", size[1]))
    if size != expected:
        raise ValueError(
            f"image {record['file_name']} is {size[0]} x {size[1]} (height x width), the data "
            f"set says {expected[0]} x {expected[1]}; correct the data set's record"
        )
    return size


def _views(
    classifier: ImageClassifier,
    image: np.ndarray,
    scales: Sequence[float],
    flip: bool,
    resize: str,
) -> list[list[Tensor]]:
    """Normalized views (3, h, w): for each scale the image and, with flip, its mirror image."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    pixels = pixels.to(classifier.device, torch.float32)[None]
    views = []
    for scale in scales:
        size = view_size((image.shape[0], image.shape[1]), scale, resize=resize)
        # Without antialiasing a strongly reduced photo would give moire instead of objects.
        view = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)[0]
        view = classifier.normalize(view.clamp(0, 255))
        views.append([view, view.flip(-1)] if flip else [view])
    return views


def _present_classes(
    classifier: ImageClassifier,
    record: Mapping[str, Any],
    first_view: Tensor,
    gate: str,
    pred_logit: float,
) -> np.ndarray:
    """Rising int64 (m,) contiguous classes that get maps."""
    if gate == "pred":
        logits = classifier.network.class_logits(first_view[None])[0][0]
        present = torch.nonzero(logits > pred_logit)[:, 0]
        return (present if len(present) else logits.argmax()[None]).cpu().numpy()
    classes = np.unique(np.asarray(record["image_labels"], dtype=np.int64))
    if len(classes) and not 0 <= classes[0] <= classes[-1] < classifier.num_classes:
        raise ValueError(
            f"image {record['image_id']!r} has labels {classes.tolist()}, the classifier has "
            f"classes 0 to {classifier.num_classes - 1} (MODEL.ROI_HEADS.NUM_CLASSES)"
        )
    return classes


def _cam_maps(
    classifier: ImageClassifier,
    views: Sequence[Sequence[Tensor]],
    classes: np.ndarray,
    size: tuple[int, int],
    gate: str,
) -> CamMaps:
    index = torch.from_numpy(classes).to(classifier.device)
    scales = [_sum_of_views(classifier, pair, index) for pair in views]
    stacked: dict[str, tuple[np.ndarray, ...] | None] = {}
    for kind in _KINDS:
        maps = [getattr(scale, kind) for scale in scales]
        stacked[kind] = None if maps[0] is None else tuple(_finite(m.float()) for m in maps)
    coarse, fine, cross = (stacked[kind] for kind in _KINDS)
    assert coarse is not None
    return CamMaps(
        image_size=size, classes=classes, coarse=coarse, fine=fine, cross=cross, gate=gate
    )


def _finite(maps: Tensor) -> np.ndarray:
    """float32 maps; one with a value that is not finite becomes constant, so it has no peaks."""
    broken = ~maps.flatten(-2).isfinite().all(dim=-1)
    if broken.any():
        logger.warning("%d maps have values that are not finite and are set to 0", broken.sum())
    return maps.masked_fill(broken[..., None, None], 0.0).cpu().numpy()


def _sum_of_views(classifier: ImageClassifier, pair: Sequence[Tensor], classes: Tensor) -> ViewMaps:
    """Maps of one scale; the mirror image's are mirrored back before they are added."""
    total = classifier.network.maps(pair[0], classes)
    for mirrored in pair[1:]:
        back = classifier.network.maps(mirrored, classes)
        total = ViewMaps(
            coarse=total.coarse + back.coarse.flip(-1),
            fine=_plus_mirrored(total.fine, back.fine),
            cross=_plus_mirrored(total.cross, back.cross),
        )
    return total


def _plus_mirrored(maps: Tensor | None, mirrored: Tensor | None) -> Tensor | None:
    return None if maps is None or mirrored is None else maps + mirrored.flip(-1)


def _no_maps(
    classifier: ImageClassifier, size: tuple[int, int], num_scales: int, gate: str
) -> CamMaps:
    """The entry of an image without classes, with the kinds of maps that the others have."""
    network = classifier.network
    plain = tuple(np.zeros((0, 1, 1), np.float32) for _ in range(num_scales))
    cross = np.zeros((0, network.heads, len(network.blocks), 1, 1), np.float32)
    return CamMaps(
        image_size=size,
        classes=np.zeros(0, np.int64),
        coarse=plain,
        fine=plain if "fine" in network.kinds else None,
        cross=(cross,) * num_scales if "cross" in network.kinds else None,
        gate=gate,
    )
