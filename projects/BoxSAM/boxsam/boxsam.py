"""BoxSAM: image to tags, to boxes, to masks, to a label map; each part can be replaced."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from weaksam_d2.artifacts import LabelSpace, ProposalStore
from weaksam_d2.data import read_image
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY, LabelResult
from weaksam_d2.sam import sam_weights
from weaksam_d2.weights import resolve_weights

from .boxes import ClassBoxes
from .config import add_boxsam_config
from .detector import Detector, GivenBoxes, build_detector
from .fuse import FuseSettings, Instance, fuse_instances, label_flags
from .hub import weights_source
from .segmenter import BoxSegmenter, build_segmenter
from .tagger import Tagger, build_tagger

__all__ = ["BoxSAM", "BoxSAMResult", "is_paper"]

# Decided by the number of classes, or how a choice of the paper is loaded.
_FREE_KEYS = {"TOP_N", "CLIP", "WEIGHTS"}


@dataclass(frozen=True)
class BoxSAMResult:
    """What was found in one image: label uint8 (H, W), flags, tags, boxes and instances."""

    label: np.ndarray
    flags: tuple[str, ...]
    tags: tuple[int, ...]
    boxes: ClassBoxes
    instances: tuple[Instance, ...]


@LABEL_SOURCE_REGISTRY.register()
class BoxSAM:
    """Labels of CLIP's tags, Grounding DINO's boxes and SAM's masks; nothing is trained.

    By default no label of the data set is read (supervision "none"); with BOXSAM.TAGGER.MODE
    "given" the tags are, with BOXSAM.DETECTOR.BOXES "given" the true boxes.

    Args:
        tagger: None where the detector knows the classes (true boxes).
        detector: tags to boxes; tags without a box are dropped.
        segmenter: boxes to masks; SAM encodes nothing where there is no box.
        fuse: how instances share pixels.
        base: "paper" or "custom", for `labels.json`.

    Raises:
        ValueError: no tagger and a detector that needs tags.

    Source: BoxSAM, Sec. 3; wsss.md, Sec. 7.
    """

    reads = ""
    system = "BoxSAM"
    declared_keys = ("BOXSAM", "WEAKSAM.SAM")
    neutral_keys = ("BOXSAM.TAGGER.CLIP", "BOXSAM.TAGGER.WEIGHTS")

    @configurable
    def __init__(
        self,
        *,
        tagger: Tagger | None,
        detector: Detector,
        segmenter: BoxSegmenter,
        fuse: FuseSettings,
        base: str = "custom",
    ) -> None:
        if tagger is None and not isinstance(detector, GivenBoxes):
            raise ValueError(f"{type(detector).__name__} needs the tags of a tagger, there is none")
        self.tagger = tagger
        self.detector = detector
        self.segmenter = segmenter
        self.fuse = fuse
        self.base = base

    @classmethod
    def from_config(cls, cfg: Any, inputs: Mapping[str, Path], space: LabelSpace) -> dict[str, Any]:
        """The constructor's arguments from ``BOXSAM`` and ``WEAKSAM.SAM``.

        inputs: "input" may be a file of tag scores, "masks" a store of automatic masks.
        """
        names = space.classes[1:]
        fuse = FuseSettings.from_node(cfg.BOXSAM.FUSE)
        masks = ProposalStore.open(inputs["masks"]) if "masks" in inputs else None
        detector = build_detector(cfg, names)
        given = isinstance(detector, GivenBoxes)
        return {
            "tagger": None if given else build_tagger(cfg, names, inputs.get("input")),
            "detector": detector,
            "segmenter": build_segmenter(cfg, masks),
            "fuse": fuse,
            "base": "paper" if is_paper(cfg) else "custom",
        }

    @staticmethod
    def weight_files(cfg: Any) -> list[tuple[str, Path]]:
        """(name, file) pairs of what is loaded; the detector counts by its name."""
        files = []
        node = cfg.BOXSAM.TAGGER
        if cfg.BOXSAM.DETECTOR.BOXES != "given" and node.SELECTION == "per_image":
            if node.MODE == "zero_shot":
                files.append(("clip", resolve_weights(weights_source(node.CLIP))))
            if node.MODE == "head":
                files.append(("tagger", resolve_weights(node.WEIGHTS)))
        sam = sam_weights(cfg)
        return files if sam is None else [*files, ("sam", sam)]

    @property
    def supervision(self) -> str:
        """What the labels were told: "none", "image_labels" or "given_boxes"."""
        if self.detector.supervision != "none" or self.tagger is None:
            return self.detector.supervision
        return self.tagger.supervision

    def find(
        self, record: Mapping[str, Any], image: np.ndarray
    ) -> tuple[tuple[int, ...], ClassBoxes]:
        """Tags and boxes of an RGB uint8 image (H, W, 3)."""
        if self.tagger is None:
            assert isinstance(self.detector, GivenBoxes)
            tags = self.detector.classes(record)
        else:
            tags = self.tagger(record, image)
        boxes = self.detector(record, image, tags)
        assert set(boxes.classes.tolist()) <= set(tags), "a detector may find tagged classes only"
        return tuple(tags), boxes

    def label(self, record: Mapping[str, Any], image: np.ndarray) -> BoxSAMResult:
        """Label an RGB uint8 image (H, W, 3).

        Flags: ``no_tags``, ``bad_boxes:<count>`` (not finite), and with the label id of a class
        ``class_empty`` (no box), ``low_overlap``, ``empty_mask``, ``lost`` (no pixel is left).
        """
        tags, boxes = self.find(record, image)
        instances, flags = self.segmenter(record, image, boxes)
        label = fuse_instances(instances, (image.shape[0], image.shape[1]), self.fuse)
        if boxes.bad:
            flags = (f"bad_boxes:{boxes.bad}", *flags)
        flags = (*label_flags(tags, boxes.classes.tolist(), label), *flags)
        return BoxSAMResult(label, flags, tags, boxes, tuple(instances))

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        """Label the image of a record."""
        result = self.label(record, read_image(record["file_name"], "RGB"))
        return LabelResult(result.label, result.flags, result.tags)


def is_paper(cfg: Any) -> bool:
    """Whether the keys are those of the paper's setting, as we read it."""
    default = CfgNode()
    add_boxsam_config(default)
    if cfg.WEAKSAM.SAM.ARCH != "vit_h" or cfg.BOXSAM.TAGGER.MODE == "given":
        return False
    return all(
        cfg.BOXSAM[node][key] == value
        for node, keys in default.BOXSAM.items()
        for key, value in keys.items()
        if key not in _FREE_KEYS and (node, key) != ("TAGGER", "MODE")
    )
