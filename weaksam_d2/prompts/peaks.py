"""Peaks of activation maps as prompts: coarse, fine and cross-attention maps."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import CamMaps, Prompts
from weaksam_d2.ops.maps import iter_fused_maps
from weaksam_d2.ops.peaks import cluster_points, find_peaks

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
    divisor centers over all peaks of the image, 0: none; max_points before clustering.
    """

    kernel_size: int = 17
    threshold: float = 0.9
    topk: int = 25
    metric: str = "l1"
    plateau: str = "all"
    joint: bool = False
    cluster_divisor: int = 0
    cluster_seed: int = 0
    max_points: int = 20000

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
    """Peaks of many maps: xy (n, 2) in original pixels, scores, and the map's row of each."""

    xy: np.ndarray
    scores: np.ndarray
    rows: np.ndarray


class CAMPeaks:
    """Peaks of one kind of activation map; the base of the registered sources.

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
        return self._prompts(cams, maps, self._peaks(maps, size))

    def _peaks(self, maps: tuple[np.ndarray, ...], size: tuple[int, int]) -> _Peaks:
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
        return _Peaks(xy, np.concatenate(scores).astype(np.float32), np.concatenate(rows))

    def _prompts(self, cams: CamMaps, maps: tuple[np.ndarray, ...], peaks: _Peaks) -> Prompts:
        """Single points, then joint prompts, each in the order of the classes."""
        classes = np.asarray(cams.classes)
        singles = _single_points(self.name, peaks.xy, peaks.scores, classes[peaks.rows])
        if not self.settings.joint:
            return singles
        return Prompts.concatenate([singles, _joint_prompts(self.name, peaks, classes)])


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
    """Cluster centers of the peaks of all cross-attention maps of an image.

    Without clustering (``CLUSTER_DIVISOR`` 0) each peak is a prompt with its class and head.
    """

    name, node, kind = "CrossAttentionPeaks", "CROSS", "cross"

    def _prompts(self, cams: CamMaps, maps: tuple[np.ndarray, ...], peaks: _Peaks) -> Prompts:
        settings = self.settings
        if settings.cluster_divisor:
            centers = cluster_points(
                peaks.xy,
                divisor=settings.cluster_divisor,
                seed=settings.cluster_seed,
                max_points=settings.max_points,
            )
            height, width = cams.image_size
            return _single_points(self.name, np.clip(centers, 0, (width - 1, height - 1)))
        num_rows, num_heads, num_blocks = maps[0].shape[:3]
        classes = np.asarray(cams.classes) if num_rows == len(cams.classes) else np.array([-1])
        return Prompts(
            points=peaks.xy,
            offsets=np.arange(len(peaks.xy) + 1, dtype=np.int64),
            scores=peaks.scores,
            classes=classes[peaks.rows // (num_heads * num_blocks)].astype(np.int32),
            sources=np.zeros(len(peaks.xy), np.uint8),
            source_names=(self.name,),
            heads=(peaks.rows // num_blocks % num_heads).astype(np.int16),
            # NOTE: the place among the stored blocks, from 1; the store's index has their numbers.
            blocks=(peaks.rows % num_blocks + 1).astype(np.int16),
        )


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


def _joint_prompts(name: str, peaks: _Peaks, classes: np.ndarray) -> Prompts:
    """For each class of two or more peaks a prompt of all of them, scored by the best.

    NOTE: a class of one peak has none: it would be the single prompt again, which the released
    code decodes twice (weaksam.md, Sec. 3.4).
    """
    members = [np.flatnonzero(peaks.rows == row) for row in range(len(classes))]
    rows = [row for row, member in enumerate(members) if len(member) > 1]
    joined = [members[row] for row in rows]
    points = np.concatenate([np.zeros((0, 2), np.float32), *(peaks.xy[j] for j in joined)])
    return Prompts(
        points=points,
        offsets=np.cumsum([0, *(len(j) for j in joined)], dtype=np.int64),
        scores=np.array([peaks.scores[j].max() for j in joined], np.float32),
        classes=classes[rows].astype(np.int32),
        sources=np.zeros(len(rows), np.uint8),
        source_names=(name,),
    )
