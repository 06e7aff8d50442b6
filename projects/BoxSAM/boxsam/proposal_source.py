"""The detector's boxes as proposals and as prompts of the core pipeline."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from detectron2.config import configurable
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CamMaps, Prompts, Proposals
from weaksam_d2.data import read_image
from weaksam_d2.prompts import PROMPT_SOURCE_REGISTRY
from weaksam_d2.proposals import PROPOSAL_METHOD_REGISTRY

from .detector import Detector, build_detector
from .segmenter import box_prompts
from .tagger import Tagger, build_tagger

__all__ = ["OpenVocabularyBoxes", "OpenVocabularyPrompts"]


def _class_names(cfg: Any) -> list[str]:
    """Classes of the config's first data set."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ValueError("DATASETS.TRAIN is empty; its classes are what boxes are looked for")
    return list(MetadataCatalog.get(names[0]).thing_classes)


def _parts(cfg: Any) -> dict[str, Any]:
    """Tagger and detector of ``BOXSAM``.

    Raises:
        ValueError: true boxes, or tags of the whole set, which a single image does not have.
    """
    if cfg.BOXSAM.DETECTOR.BOXES == "given":
        raise ValueError(
            "BOXSAM.DETECTOR.BOXES is 'given': true boxes are no proposals; set it to 'detected'"
        )
    names = _class_names(cfg)
    return {"tagger": build_tagger(cfg, names), "detector": build_detector(cfg, names)}


@PROPOSAL_METHOD_REGISTRY.register()
class OpenVocabularyBoxes:
    """Boxes of the tags by an open-vocabulary detector, by falling score; no SAM is needed.

    Proposals have no class: a class-agnostic head starts from them.
    """

    source_names = ("OpenVocabularyBoxes",)
    declared_keys = ("BOXSAM",)

    @configurable
    def __init__(self, *, tagger: Tagger, detector: Detector) -> None:
        """tagger: one that looks at the image alone."""
        self.tagger = tagger
        self.detector = detector

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``BOXSAM``.

        Raises:
            ValueError: true boxes, or tags that are read from the data set's records.
        """
        if cfg.BOXSAM.TAGGER.MODE == "given":
            raise ValueError(
                "BOXSAM.TAGGER.MODE is 'given', and proposals see no labels of an image; use "
                "'zero_shot' or 'head', or the prompt source OpenVocabularyPrompts"
            )
        return _parts(cfg)

    def __call__(
        self, image: np.ndarray, prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Proposals:
        """Boxes of an RGB uint8 image (H, W, 3); prompts and grid mean nothing here."""
        found = self.detector({}, image, self.tagger({}, image))
        return Proposals(
            boxes=found.boxes,
            image_size=(int(image.shape[0]), int(image.shape[1])),
            scores=found.scores,
            sources=np.zeros(len(found), np.uint8),
            source_names=self.source_names,
        )


@PROMPT_SOURCE_REGISTRY.register()
class OpenVocabularyPrompts:
    """A box prompt with its class and score for each of the detector's boxes."""

    name = "OpenVocabularyPrompts"
    node = "OPENVOCABULARYPROMPTS"  # it has none: BOXSAM is its own
    stored = True
    declared_keys = ("BOXSAM",)

    @configurable
    def __init__(self, *, tagger: Tagger, detector: Detector) -> None:
        self.tagger = tagger
        self.detector = detector

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``BOXSAM``."""
        return _parts(cfg)

    def __call__(self, record: Mapping[str, Any], cams: CamMaps | None) -> Prompts:
        """Prompts of a record's image; activation maps mean nothing here."""
        image = read_image(record["file_name"], "RGB")
        found = self.detector(record, image, self.tagger(record, image))
        prompts = box_prompts(found.boxes, name=self.name)
        return replace(prompts, classes=found.classes, scores=found.scores)
