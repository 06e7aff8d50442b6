"""Stored activation maps as label maps: the label source CAM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import CamStore, ImageId, LabelSpace
from weaksam_d2.data.images import read_image
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY, LabelResult, required_input
from weaksam_d2.ops.label_maps import add_background, cam_to_label, ignore_uncertain
from weaksam_d2.ops.maps import fuse_scales

from .crf import RefinedLabels, crf_setting, dense_crf

__all__ = ["CAM", "FullCam", "read_cam"]


class FullCam(NamedTuple):
    """Normalized maps at image size: float32 (K, H, W) in [0, 1], and classes int64 (K,)."""

    cam: np.ndarray
    classes: np.ndarray


def read_cam(store: CamStore, image_id: ImageId, *, kind: str = "") -> FullCam:
    """Maps of an image as they are meant to be seen: scales resized, added, normalized.

    kind: "coarse" or "fine"; "": fine where the store has it (WeakTr, MCTformer, CLIP-ES), else
    coarse. The normalization is the one that the store names. wsss.md, Sec. 1.1.

    Raises:
        KeyError: there is no such image. ValueError: a kind that the store does not have.
    """
    maps = store[image_id]
    if kind not in ("", "coarse", "fine"):
        raise ValueError(f"kind is {kind!r}, expected 'coarse', 'fine' or '' (the best there is)")
    if kind == "fine" and maps.fine is None:
        raise ValueError(f"{store.path} has no fine maps: {store.index['network']} gives none")
    chosen = maps.fine if kind in ("", "fine") and maps.fine is not None else maps.coarse
    scales = [torch.from_numpy(scale) for scale in chosen]
    fused = fuse_scales(scales, maps.image_size, normalize=store.index["normalize"])
    return FullCam(fused.numpy(), maps.classes)


@LABEL_SOURCE_REGISTRY.register()
class CAM:
    """The best of background and the image's maps at each pixel.

    With a CRF the map (or its scores, by the setting) is refined; pixels whose largest probability
    is then below ``confidence`` are ignored. wsss.md, Sec. 3.1, 3.5, 3.6.

    Args:
        store: maps of the data set.
        space: label space; its class names must be the store's.
        background: see ``ops.background_score``.
        crf: name of a CRF setting; "": none.
        confidence: least probability of a label; 0: all stay.

    Raises:
        ValueError: a confidence without CRF, an unknown setting, maps of other classes.
        ImportError: a CRF is asked for and its package is not installed.
    """

    reads = "cams"
    system = "CAM"
    base = "paper"
    supervision = "image_labels"

    @configurable
    def __init__(
        self,
        *,
        store: CamStore,
        space: LabelSpace,
        background: str = "constant:0.43",
        crf: str = "",
        confidence: float = 0.0,
    ) -> None:
        if list(space.classes[1:]) != store.class_names:
            raise ValueError(
                f"{store.path} has maps of {store.class_names}, the data set {space.name!r} has "
                f"the classes {list(space.classes[1:])}"
            )
        if confidence > 0 and not crf:
            raise ValueError(
                f"WEAKSAM.LABELS.CONFIDENCE is {confidence}, but only a CRF gives probabilities: "
                "set WEAKSAM.LABELS.CRF too, or CONFIDENCE 0.0"
            )
        self.setting = crf_setting(crf) if crf else None
        self.store = store
        self.background = background
        self.crf = crf
        self.confidence = confidence

    @classmethod
    def from_config(cls, cfg: Any, inputs: Mapping[str, Path], space: LabelSpace) -> dict[str, Any]:
        """The constructor's arguments from ``WEAKSAM.LABELS``; "input" is a CAM store."""
        node = cfg.WEAKSAM.LABELS
        path = required_input(inputs, "input", "a folder of activation maps (generate_cams.py)")
        return {
            "store": CamStore.open(path),
            "space": space,
            "background": node.BACKGROUND,
            "crf": node.CRF,
            "confidence": node.CONFIDENCE,
        }

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        """Label an image from its stored maps."""
        image_id = str(record["image_id"])
        cam, classes = read_cam(self.store, image_id)
        tags = None
        if self.store[image_id].gate == "pred":
            tags = tuple(int(c) for c in classes)
        label = cam_to_label(cam, classes, background=self.background)
        if not len(classes):
            return LabelResult(label, ("no_tags",), tags)
        if self.setting is not None:
            refined = self._refine(read_image(record["file_name"], "RGB"), label, cam, classes)
            confidence = refined.probabilities.max(axis=0)
            label = ignore_uncertain(refined.label, confidence, self.confidence)
        return LabelResult(label, _flags(cam, classes, label), tags)

    def _refine(
        self, image: np.ndarray, label: np.ndarray, cam: np.ndarray, classes: np.ndarray
    ) -> RefinedLabels:
        assert self.setting is not None
        if self.setting.unary == "labels":
            return dense_crf(image, label, self.crf)
        scores = add_background(cam, self.background)
        return dense_crf(image, scores, self.crf, ids=[0, *(classes + 1).tolist()])


def _flags(cam: np.ndarray, classes: np.ndarray, label: np.ndarray) -> tuple[str, ...]:
    """Label ids whose map is empty, and those that no pixel has although it is not."""
    left = np.bincount(label.ravel(), minlength=256)
    flags = []
    for row, class_id in enumerate(classes.tolist()):
        if not cam[row].any():
            flags.append(f"class_empty:{class_id + 1}")
        elif not left[class_id + 1]:
            flags.append(f"lost:{class_id + 1}")
    return tuple(flags)
