"""Dense CRF: label maps that follow the edges of the image (Krähenbühl and Koltun, 2011)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "CRF_SETTINGS",
    "CrfSetting",
    "RefinedLabels",
    "crf_setting",
    "dense_crf",
    "label_unary",
    "score_unary",
]

_IGNORE = 255
_INSTALL = "python -m pip install 'weaksam_d2[crf]'"


@dataclass(frozen=True)
class CrfSetting:
    """Numbers of a dense CRF; widths are standard deviations in pixels and in gray values.

    ``unary`` "labels": the map is a hard label map of which a share ``label_prob`` is believed;
    "scores": scores of background and classes, clipped at ``floor``.
    """

    unary: str
    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    label_prob: float = 0.7
    floor: float = 1e-5
    iterations: int = 10


# wsss.md, Sec. 3.6: what the released programs use, by their names.
CRF_SETTINGS: Mapping[str, CrfSetting] = {
    "weaktr_voc": CrfSetting("labels", 4, 3, 83, 5, 3),
    "weaktr_coco": CrfSetting("labels", 3, 3, 50, 5, 10),
    "mct": CrfSetting("scores", 3, 3, 80, 13, 10),
    "s2c": CrfSetting("scores", 3, 3, 80, 13, 10),
    "clipes": CrfSetting("scores", 1, 3, 67, 3, 4),
    "weaktr_seg_voc": CrfSetting("scores", 3, 3, 83, 5, 3),
}


class RefinedLabels(NamedTuple):
    """label uint8 (H, W); probabilities float32 (n, H, W) of the labels ids uint8 (n,)."""

    label: np.ndarray
    probabilities: np.ndarray
    ids: np.ndarray


def crf_setting(name: str) -> CrfSetting:
    """A setting by its name, once its library is there.

    Raises:
        ValueError: no such setting. ImportError: the library is not installed.
    """
    if name not in CRF_SETTINGS:
        raise ValueError(
            f"WEAKSAM.LABELS.CRF is {name!r}, expected one of {sorted(CRF_SETTINGS)}, or '' (none)"
        )
    _library()
    return CRF_SETTINGS[name]


def _library() -> ModuleType:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise ImportError(
            f"the dense CRF needs pydensecrf, which cannot be imported ({error}): install it with "
            f"{_INSTALL}, or leave WEAKSAM.LABELS.CRF empty (and "
            "CRF out of PIPELINE.LABELS, with SEPL.START cam)"
        ) from error
    library: ModuleType = densecrf
    return library


def label_unary(compact: np.ndarray, count: int, label_prob: float) -> np.ndarray:
    """Energies of a hard label map: -log p for the label of a pixel, -log((1 - p)/(n - 1)) else.

    compact: integers (H, W) from 0 to ``count`` - 1; a negative value is no label, and gives log n
    to each. Returns float32 (n, H, W).
    """
    other = -np.log((1 - label_prob) / (count - 1))
    unary = np.full((count, *compact.shape), other, dtype=np.float32)
    rows, columns = np.nonzero(compact >= 0)
    unary[compact[rows, columns], rows, columns] = -np.log(label_prob)
    unary[:, compact < 0] = np.log(count)
    return unary


def score_unary(scores: np.ndarray, floor: float) -> np.ndarray:
    """Energies -log of scores (n, H, W), which are clipped to [floor, 1] and not normalized."""
    return (-np.log(np.clip(scores, floor, 1.0))).astype(np.float32)


def dense_crf(
    image: np.ndarray, start: np.ndarray, setting: str, *, ids: Sequence[int] | None = None
) -> RefinedLabels:
    """Refine a label map, or scores, by the edges of its image.

    Args:
        image: uint8 (H, W, 3), RGB.
        start: uint8 (H, W) label ids, 255 where there is none, for a setting with "labels"; float
            (n, H, W) in [0, 1] for one with "scores".
        setting: a name of ``CRF_SETTINGS``.
        ids: label id of each row of the scores.

    Returns:
        Only the labels that are present take part. With less than two of them the start is given
        back as it is, its probabilities 1.

    Raises:
        ValueError: an unknown setting, a start of the other kind, or of another size than the
            image. ImportError: pydensecrf is not installed.
    """
    chosen = crf_setting(setting)
    hard = start.ndim == 2
    if hard != (chosen.unary == "labels") or hard != (ids is None):
        wanted = "a label map (H, W)" if chosen.unary == "labels" else "scores (n, H, W) and ids"
        raise ValueError(f"CRF setting {setting!r} takes {wanted}, got an array {start.shape}")
    if image.dtype != np.uint8 or image.shape != (*start.shape[-2:], 3):
        raise ValueError(
            f"image is {image.dtype} {image.shape}, expected uint8 {(*start.shape[-2:], 3)} for a "
            f"map {start.shape}"
        )
    if hard:
        present = np.array([v for v in np.unique(start) if v != _IGNORE], dtype=np.uint8)
    else:
        present = np.asarray(ids, dtype=np.uint8)
        if len(present) != len(start):
            raise ValueError(f"{len(start)} rows of scores and {len(present)} ids")
    if len(present) < 2:
        plain = start if hard else np.full(start.shape[-2:], present[0], dtype=np.uint8)
        ones = np.ones((len(present), *plain.shape), dtype=np.float32)
        return RefinedLabels(plain.astype(np.uint8), ones, present)
    if hard:
        table = np.full(256, -1, dtype=np.int64)
        table[present] = np.arange(len(present))
        unary = label_unary(table[start], len(present), chosen.label_prob)
    else:
        unary = score_unary(start, chosen.floor)
    probabilities = _mean_field(image, unary, chosen)
    return RefinedLabels(present[probabilities.argmax(axis=0)], probabilities, present)


def _mean_field(image: np.ndarray, unary: np.ndarray, setting: CrfSetting) -> np.ndarray:
    """Probabilities float32 (n, H, W) from energies of the same shape."""
    count, height, width = unary.shape
    crf: Any = _library().DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(count, -1)))
    crf.addPairwiseGaussian(sxy=setting.gaussian_xy, compat=setting.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=setting.bilateral_xy,
        srgb=setting.bilateral_rgb,
        rgbim=np.array(image, order="C"),  # the library takes no array that is read-only
        compat=setting.bilateral_weight,
    )
    result = np.array(crf.inference(setting.iterations), dtype=np.float32)
    return result.reshape(count, height, width)
