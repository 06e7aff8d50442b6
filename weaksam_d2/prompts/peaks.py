"""Peaks of activation maps as prompts: coarse, fine and cross-attention maps."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import CamMaps, Prompts, make_peaks
from weaksam_d2.ops.maps import iter_fused_maps
from weaksam_d2.ops.peaks import cluster_members, find_peaks

from .build import PROMPT_SOURCE_REGISTRY

__all__ = ["CAMPeaks", "CoarseCAMPeaks", "CrossAttentionPeaks", "FineCAMPeaks", "PeakSettings"]

logger = logging.getLogger(__name__)

# Beyond 4000 pixels peaks are sought at 2000 and scaled back (weaksam.md, Appendix B, row 2).
_MAX_SIDE, _WORKING_SIDE = 4000, 2000
_METRICS, _PLATEAUS = ("l1", "l2"), ("all", "first")


@dataclass(frozen=True)
class PeakSettings:
    """How peaks are found in one map and what becomes of them (weaksam.md, Sec. 3.1, 3.2, 3.4).

    kernel_size in pixels; threshold of the normalized map; topk candidates for each map; joint:
    one more prompt for each class with all of its peaks; cluster_divisor: k-means with n //
    divisor centers over all peaks of the image, 0: none; cluster_truncate: centers are cut to
    whole pixels; max_points before clustering; save_peaks: the prompts of clusters carry the
    peaks that they are made of.
    """

    kernel_size: int = 17
    threshold: float = 0.9
    topk: int = 25
    metric: str = "l1"
    plateau: str = "all"
    joint: bool = False
    cluster_divisor: int = 0
    cluster_seed: int = 0
    cluster_truncate: bool = False
    max_points: int = 20000
    save_peaks: bool = True

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("METRIC", self.metric, _METRICS),
            ("PLATEAU", self.plateau, _PLATEAUS),
        ):
            if value not in allowed:
                raise ValueError(
                    f"{key} of a peak source is {value!r}, allowed: {', '.join(allowed)}"
                )
        if self.joint and self.cluster_divisor:
            raise ValueError(
                f"JOINT True and CLUSTER_DIVISOR {self.cluster_divisor} contradict each other: "
                "cluster centers have no class to be joined by; set one of them to 0 or False"
            )

    @classmethod
    def from_node(cls, node: Any) -> "PeakSettings":
        """From a config node such as ``WEAKSAM.PROMPTS.COARSE``."""
        return cls(**{name: node[name.upper()] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class _Peaks:
    """Peaks of many maps: xy (n, 2) in original pixels, score and origin of each.

    classes, heads (from 0) and blocks (from 1) are -1 where they do not apply.
    """

    xy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    heads: np.ndarray
    blocks: np.ndarray


class CAMPeaks:
    """Peaks of one kind of activation map; the base of the registered sources.

    Each peak is a prompt with its class, and with head and block of an attention map; or the
    peaks of an image are clustered (``CLUSTER_DIVISOR``), and a prompt is a center without class.
    An image whose maps of this kind are absent gets no prompts, which is logged once.
    """

    name: str
    node: str
    kind: str  # attribute of CamMaps
    stored = True

    @configurable
    def __init__(self, *, settings: PeakSettings, eps: float = 1e-8, chunk: int = 64) -> None:
        """eps of the min-max normalization; chunk: full-size maps in memory at once."""
        self.settings = settings
        self.eps = eps
        self.chunk = chunk
        self._logged = False

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from the source's node and ``WEAKSAM.CAMS``."""
        cams = cfg.WEAKSAM.CAMS
        settings = PeakSettings.from_node(cfg.WEAKSAM.PROMPTS[cls.node])
        return {"settings": settings, "eps": cams.EPS, "chunk": cams.MAX_MAP_CHUNK}

    def __call__(self, record: Mapping[str, Any], cams: CamMaps | None) -> Prompts:
        """The prompts of one image (see :class:`PromptSource`).

        Raises:
            ValueError: the maps are those of an image of another size.
        """
        maps = None if cams is None else getattr(cams, self.kind)
        if cams is None or maps is None:
            if not self._logged:
                logger.info("%s gives no prompts: there are no %s maps", self.name, self.kind)
                self._logged = True
            return _single_points(self.name, np.zeros((0, 2), np.float32))
        size = (int(record["height"]), int(record["width"]))
        if tuple(cams.image_size) != size:
            raise ValueError(
                f"activation maps of image {record['image_id']!r} are of a {cams.image_size} "
                f"image, the data set says {size} (height, width); generate the maps again"
            )
        if maps[0].shape[0] == 0:
            return _single_points(self.name, np.zeros((0, 2), np.float32))
        peaks = self._peaks(cams, maps, size)
        if self.settings.cluster_divisor:
            return self._centers(peaks, size)
        return self._singles(peaks)

    def _peaks(self, cams: CamMaps, maps: tuple[np.ndarray, ...], size: tuple[int, int]) -> _Peaks:
        """Peaks of each map (the leading dimensions flattened), in the order of the maps."""
        settings, working = self.settings, size
        if max(size) > _MAX_SIDE:
            factor = _WORKING_SIDE / max(size)
            working = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        points, scores, rows = [], [], []
        for row, fused in enumerate(_fused(maps, working, self.eps, self.chunk)):
            xy, score = find_peaks(
                fused,
                kernel_size=settings.kernel_size,
                threshold=settings.threshold,
                topk=settings.topk,
                metric=settings.metric,
                plateau=settings.plateau,
            )
            points.append(xy.reshape(-1, 2))
            scores.append(score)
            rows.append(np.full(len(score), row, np.int64))
        ratio = np.array([size[1] / working[1], size[0] / working[0]], np.float32)
        xy = np.concatenate(points).astype(np.float32) * ratio
        origin = _origin(cams, maps[0].shape[:-2], np.concatenate(rows))
        return _Peaks(xy, np.concatenate(scores).astype(np.float32), *origin)

    def _singles(self, peaks: _Peaks) -> Prompts:
        """Single points, then joint prompts, each in the order of the classes."""
        singles = replace(
            _single_points(self.name, peaks.xy, peaks.scores, peaks.classes),
            heads=peaks.heads,
            blocks=peaks.blocks,
        )
        if not self.settings.joint:
            return singles
        return Prompts.concatenate([singles, _joint_prompts(self.name, peaks)])

    def _centers(self, peaks: _Peaks, size: tuple[int, int]) -> Prompts:
        settings = self.settings
        centers, owner = cluster_members(
            peaks.xy,
            divisor=settings.cluster_divisor,
            seed=settings.cluster_seed,
            max_points=settings.max_points,
        )
        centers = np.trunc(centers) if settings.cluster_truncate else centers
        prompts = _single_points(self.name, np.clip(centers, 0, (size[1] - 1, size[0] - 1)))
        if not settings.save_peaks:
            return prompts
        members = make_peaks(
            peaks.xy,
            scores=peaks.scores,
            classes=peaks.classes,
            heads=peaks.heads,
            blocks=peaks.blocks,
            prompts=owner,
        )
        return replace(prompts, peaks=members)


@PROMPT_SOURCE_REGISTRY.register()
class CoarseCAMPeaks(CAMPeaks):
    """Peaks of the coarse CAMs: each alone, and all peaks of a class together."""

    name, node, kind = "CoarseCAMPeaks", "COARSE", "coarse"


@PROMPT_SOURCE_REGISTRY.register()
class FineCAMPeaks(CAMPeaks):
    """Peaks of the fine CAMs, as :class:`CoarseCAMPeaks`."""

    name, node, kind = "FineCAMPeaks", "FINE", "fine"


@PROMPT_SOURCE_REGISTRY.register()
class CrossAttentionPeaks(CAMPeaks):
    """Cluster centers of the peaks of all cross-attention maps of an image."""

    name, node, kind = "CrossAttentionPeaks", "CROSS", "cross"


def _origin(
    cams: CamMaps, leading: tuple[int, ...], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class, head and block of flattened maps, whose leading dimensions are (class, head, block).

    Raises:
        ValueError: the maps of an image have another number of blocks than it names.
    """
    index = np.unravel_index(rows, leading)
    # Attention of the whole image has one row, which belongs to no class.
    of_image = len(leading) > 1 and cams.cross_rows == "image"
    classes = np.array([-1]) if of_image else np.asarray(cams.classes)
    if len(leading) == 1:
        none = np.full(len(rows), -1, np.int16)
        return classes[index[0]], none, none
    blocks = np.array(cams.blocks or range(1, leading[2] + 1))
    if len(blocks) != leading[2]:
        raise ValueError(f"cross maps have {leading[2]} blocks, named are {cams.blocks}")
    return classes[index[0]], index[1], blocks[index[2]]


def _fused(
    maps: tuple[np.ndarray, ...], size: tuple[int, int], eps: float, chunk: int
) -> Iterator[np.ndarray]:
    """Normalized float32 (H, W) maps, one for each of the flattened leading dimensions."""
    flat = [torch.from_numpy(np.array(m, np.float32).reshape(-1, *m.shape[-2:])) for m in maps]
    for _, part in iter_fused_maps(flat, size, eps=eps, chunk=chunk):
        yield from part.numpy()


def _single_points(
    name: str,
    points: np.ndarray,
    scores: np.ndarray | None = None,
    classes: np.ndarray | None = None,
) -> Prompts:
    points = np.asarray(points, np.float32).reshape(-1, 2)
    return Prompts.single_points(
        points, scores=scores, classes=classes, source=name, source_names=(name,)
    )


def _joint_prompts(name: str, peaks: _Peaks) -> Prompts:
    """For each class of two or more peaks a prompt of all of them, scored by the best.

    NOTE: a class of one peak has none: it would be the single prompt again, which the released
    code decodes twice (weaksam.md, Sec. 3.4).
    """
    classes, counts = np.unique(peaks.classes, return_counts=True)  # they rise within an image
    classes = classes[counts > 1]
    joined = [np.flatnonzero(peaks.classes == cls) for cls in classes]
    points = np.concatenate([np.zeros((0, 2), np.float32), *(peaks.xy[j] for j in joined)])
    return Prompts(
        points=points,
        offsets=np.cumsum([0, *(len(j) for j in joined)], dtype=np.int64),
        scores=np.array([peaks.scores[j].max() for j in joined], np.float32),
        classes=classes.astype(np.int32),
        sources=np.zeros(len(joined), np.uint8),
        source_names=(name,),
    )
