"""Image to tags: CLIP asked for each class, a trained tagger, or the tags that are given."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.cams import CLIP, load_clip
from weaksam_d2.cams.checkpoints import read_state
from weaksam_d2.weights import resolve_weights

from .clip_tagger import CLIPTagger, build_clip
from .hub import weights_source
from .names import class_words
from .selection import SELECTIONS, select_per_image
from .tag_scores import TagScores
from .views import PIXEL_MEAN, PIXEL_STD, tag_views

__all__ = [
    "GivenTags",
    "ScoredTags",
    "StoredTags",
    "Tagger",
    "build_tag_scorer",
    "build_tagger",
    "head_scorer",
    "zero_shot_scorer",
]

_MODES = ("zero_shot", "head", "given")
# RGB uint8 (H, W, 3) to probabilities float64 (C,)
Scorer = Callable[[np.ndarray], np.ndarray]


class Tagger(Protocol):
    """Says which classes an image shows."""

    supervision: str  # of labels made with it: "none" or "image_labels"

    def __call__(self, record: Mapping[str, Any], image: np.ndarray | None) -> list[int]:
        """Contiguous classes, rising. image: RGB uint8 (H, W, 3), or None where none is read."""


class ScoredTags:
    """The best classes of each image by a scorer (:func:`select_per_image`)."""

    supervision = "none"

    def __init__(self, scorer: Scorer, *, top_n: int = 5, rel_threshold: float = 0.1) -> None:
        self.scorer = scorer
        self.top_n = top_n
        self.rel_threshold = rel_threshold

    def __call__(self, record: Mapping[str, Any], image: np.ndarray | None) -> list[int]:
        """The tags of an image."""
        assert image is not None, "tags are read off the image"
        scores = self.scorer(image)
        return select_per_image(scores, top_n=self.top_n, rel_threshold=self.rel_threshold)


class StoredTags:
    """The tags that each class gave to its best images of a set (``per_class_topn``)."""

    supervision = "none"

    def __init__(self, tags: Mapping[str, Sequence[int]]) -> None:
        self.tags = dict(tags)

    def __call__(self, record: Mapping[str, Any], image: np.ndarray | None) -> list[int]:
        """The tags of an image; KeyError for one without scores."""
        image_id = str(record["image_id"])
        if image_id not in self.tags:
            raise KeyError(
                f"image '{image_id}' has no tag scores; make them for this data set "
                "(tools/evaluate_boxsam.py --only tags)"
            )
        return list(self.tags[image_id])


class GivenTags:
    """The image-level labels of the record."""

    supervision = "image_labels"

    def __call__(self, record: Mapping[str, Any], image: np.ndarray | None) -> list[int]:
        """The tags of a record; ValueError for one without ``image_labels``."""
        if "image_labels" not in record:
            raise ValueError(
                f"record of image {record.get('image_id')!r} has no image_labels, and "
                "BOXSAM.TAGGER.MODE is 'given'; use a weak data set, or another mode"
            )
        return sorted(int(tag) for tag in record["image_labels"])


def zero_shot_scorer(clip: CLIP, class_names: Sequence[str], templates: Sequence[str]) -> Scorer:
    """Probability of each class by CLIP: softmax over the classes, the best of the views.

    The text features are computed here, once: the mean over the templates of each class, of
    length 1. Source: wsss.md, Sec. 7.2.
    """
    words = class_words(class_names)
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise ValueError(
            f"BOXSAM.TAGGER.TEMPLATES is {tuple(templates)}, expected texts with a place {{}}"
        )
    texts = [clip.text_features([t.replace("{}", word) for word in words]) for t in templates]
    features = F.normalize(torch.stack(texts).mean(dim=0), dim=-1)
    side = int(clip.model.config.vision_config.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))

    @torch.no_grad()
    def score(image: np.ndarray) -> np.ndarray:
        views = ((tag_views(image, side) - mean) / std).to(features)
        logits = clip.scale * clip.image_features(views) @ features.T
        return _best_view(logits)

    return score


def head_scorer(model: CLIPTagger) -> Scorer:
    """Probability of each class by a trained tagger, the best of the views."""
    model.eval()

    @torch.no_grad()
    def score(image: np.ndarray) -> np.ndarray:
        return _best_view(model.logits(tag_views(image, model.view_side).to(model.device)))

    return score


def _best_view(logits: Tensor) -> np.ndarray:
    """Softmax of (views, C) logits, maximum over the views: float64 (C,)."""
    best: np.ndarray = logits.double().softmax(dim=1).amax(dim=0).cpu().numpy()
    return best


def build_tag_scorer(cfg: Any, class_names: Sequence[str]) -> Scorer:
    """The scorer of ``BOXSAM.TAGGER.MODE`` ``zero_shot`` or ``head``, on ``MODEL.DEVICE``.

    Raises:
        ValueError: another mode, or ``head`` without weights. WeightsError: weights are missing.
    """
    node = cfg.BOXSAM.TAGGER
    device = torch.device(cfg.MODEL.DEVICE)
    if node.MODE == "zero_shot":
        clip = load_clip(weights_source(node.CLIP)).to(device)
        return zero_shot_scorer(clip, class_names, node.TEMPLATES)
    if node.MODE != "head":
        raise ValueError(f"BOXSAM.TAGGER.MODE is {node.MODE!r}: such tags have no scores")
    if not node.WEIGHTS:
        raise ValueError(
            "BOXSAM.TAGGER.MODE 'head' needs BOXSAM.TAGGER.WEIGHTS, a checkpoint of "
            "tools/train_net.py with projects/BoxSAM/configs/clip_tagger_voc.yaml"
        )
    return head_scorer(_load_head(cfg, len(class_names)).to(device))


def _load_head(cfg: Any, num_classes: int) -> CLIPTagger:
    source = cfg.BOXSAM.TAGGER.CLIP
    model = CLIPTagger(
        clip=build_clip(source),
        num_classes=num_classes,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    found = read_state(resolve_weights(cfg.BOXSAM.TAGGER.WEIGHTS))
    wanted = model.state_dict()
    other = {key for key in {*wanted} & {*found} if wanted[key].shape != found[key].shape}
    wrong = sorted({*wanted} ^ {*found} | other)
    if wrong:
        raise ValueError(
            f"{cfg.BOXSAM.TAGGER.WEIGHTS} does not fit a CLIPTagger of {num_classes} classes on "
            f"{source or 'a random ViT-B/16'}; other keys or shapes: {wrong[:5]}"
        )
    model.load_state_dict(found)
    return model


def build_tagger(cfg: Any, class_names: Sequence[str], stored: Path | None = None) -> Tagger:
    """The tagger of ``BOXSAM.TAGGER``; stored: a file of tag scores, for ``per_class_topn``.

    Raises:
        ValueError: an unknown mode or selection, ``per_class_topn`` without stored scores, or
            such scores of other classes.
    """
    node = cfg.BOXSAM.TAGGER
    for key, value, allowed in (
        ("MODE", node.MODE, _MODES),
        ("SELECTION", node.SELECTION, SELECTIONS),
    ):
        if value not in allowed:
            raise ValueError(f"BOXSAM.TAGGER.{key} is {value!r}, allowed: {', '.join(allowed)}")
    if node.MODE == "given":
        return GivenTags()
    if node.SELECTION == "per_class_topn":
        if stored is None:
            raise ValueError(
                "BOXSAM.TAGGER.SELECTION 'per_class_topn' needs the scores of the whole set: make "
                "them with tools/evaluate_boxsam.py --only tags, and give tag_scores.json as "
                "--input"
            )
        return StoredTags(TagScores.read(stored, class_names).best_of_classes(node.TOP_N))
    return ScoredTags(
        build_tag_scorer(cfg, class_names), top_n=node.TOP_N, rel_threshold=node.REL_THRESHOLD
    )
