"""True boxes with known errors, to measure what a training method makes of noise."""

from dataclasses import dataclass

import numpy as np

__all__ = ["BoxNoise", "corrupt_boxes"]

_SHIFT = (0.25, 0.5)  # share of the side by which a shifted box moves, along both axes
_PART = (0.4, 0.6)  # share of each side that a part box covers


@dataclass(frozen=True)
class BoxNoise:
    """Probabilities of the four errors of an object; each has at most one.

    ``missing``: no box; ``shifted``: moved by a quarter to half of its side along both axes (IoU
    at most .39); ``part``: a box inside with 40-60 % of each side (IoU .16-.36); ``wrong``: another
    class, the box stays.
    """

    missing: float = 0.0
    shifted: float = 0.0
    part: float = 0.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        """Check the probabilities."""
        chances = self.chances
        if min(chances) < 0 or sum(chances) > 1 + 1e-9:
            raise ValueError(f"chances of noise are {chances}: none below 0, at most 1 in all")

    @classmethod
    def mixed(cls, level: float) -> "BoxNoise":
        """A quarter of ``level`` for each error."""
        return cls(*[level / 4] * 4)

    @property
    def chances(self) -> tuple[float, float, float, float]:
        """The four probabilities in order."""
        return self.missing, self.shifted, self.part, self.wrong


def corrupt_boxes(
    boxes: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    noise: BoxNoise,
    *,
    num_classes: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of one image with errors; for experiments that know the truth.

    The numbers drawn for an object do not depend on ``noise``: an object with an error has one at
    every higher level too.

    Args:
        boxes: XYXY float (n, 4), pixels.
        classes: int (n,), contiguous.
        size: (height, width); moved boxes are clipped to it.
        noise: what may happen to an object.
        num_classes: wrong classes are drawn from all others.
        rng: where the randomness comes from.

    Returns:
        boxes float32 (m, 4), classes int64 (m,) with m <= n, in order.

    Raises:
        ValueError: wrong classes are asked for and there is one class only.
    """
    if noise.wrong and num_classes < 2:
        raise ValueError("noise.wrong needs two classes at least, there is one")
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    classes = np.asarray(classes, np.int64)
    count = len(boxes)
    chance, sign = rng.random(count), rng.integers(0, 2, (count, 2)) * 2 - 1
    share, place = rng.random((count, 2)), rng.random((count, 2))
    other = rng.integers(1, max(num_classes, 2), count)
    ends = np.cumsum(noise.chances)
    sides = boxes[:, 2:] - boxes[:, :2]
    step = sign * (_SHIFT[0] + (_SHIFT[1] - _SHIFT[0]) * share) * sides
    inner = (_PART[0] + (_PART[1] - _PART[0]) * share) * sides
    corner = boxes[:, :2] + place * (sides - inner)
    error = np.searchsorted(ends, chance, side="right")  # 0 missing, 1 shifted, 2 part, 3 wrong
    found = boxes.copy()
    found[error == 1] += np.tile(step, 2)[error == 1]
    found[error == 2] = np.hstack([corner, corner + inner])[error == 2]
    height, width = size
    found = found.clip(0, [width, height, width, height])
    labels = np.where(error == 3, (classes + other) % num_classes, classes)
    keep = (error != 0) & (found[:, 2:] > found[:, :2]).all(axis=1)
    return found[keep].astype(np.float32), labels[keep]
