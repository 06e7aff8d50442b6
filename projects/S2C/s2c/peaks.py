"""Where a class's activation peaks, to point a segmenter at it (S2C, Sec. 3.3)."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label as label_components
from scipy.ndimage import maximum_filter
from torch import Tensor
from torch.nn import functional as F

__all__ = ["class_peaks", "library_peaks", "local_maxima"]

_RULES = ("lmf", "skimage")
_COUNTS = ("multi", "single")


def class_peaks(
    cam: Tensor, *, radius: int = 20, tau: float = 0.5, rule: str = "lmf", count: str = "multi"
) -> NDArray[np.float32]:
    """Peaks of one class's map, the highest first.

    cam: float (H, W), maximum about 1. rule: ``"lmf"`` (:func:`local_maxima`) or ``"skimage"``
    (:func:`library_peaks`, with the global maximum in front, whatever its value). count:
    ``"single"`` keeps the global maximum alone. Returns (x, y) float32 (n, 2), pixels.

    Raises:
        ValueError: an unknown rule or count, or a radius below 1.
    """
    if rule not in _RULES:
        raise ValueError(f"MODEL.S2C.PEAK_RULE is {rule!r}, allowed: {', '.join(_RULES)}")
    if count not in _COUNTS:
        raise ValueError(f"MODEL.S2C.PEAKS is {count!r}, allowed: {', '.join(_COUNTS)}")
    if radius < 1:
        raise ValueError(f"MODEL.S2C.PEAK_RADIUS must be at least 1 pixel, got {radius}")
    row, column = divmod(int(cam.flatten().argmax()), cam.shape[-1])
    if rule == "lmf":
        if count == "multi":
            return local_maxima(cam, radius=radius, tau=tau)
        top = [[column, row]] if float(cam[row, column]) > tau else []
        return np.asarray(top, np.float32).reshape(-1, 2)
    points = [[column, row]]
    if count == "multi":
        found = library_peaks(cam.detach().cpu().numpy(), radius=radius, tau=tau)
        points += [point for point in found.tolist() if point != points[0]]
    return np.asarray(points, np.float32)


def local_maxima(cam: Tensor, *, radius: int, tau: float) -> NDArray[np.float32]:
    """Maxima of their (2 radius + 1)^2 window, clipped at the borders, that are above tau.

    A plateau counts as its first pixel in row-major order; then, by falling value, a maximum goes
    if a kept one is within ``radius`` in both directions. Returns (x, y) float32 (n, 2), pixels.
    """
    window = 2 * radius + 1
    image = cam.detach().float()[None, None]
    # One axis after the other: the cost grows with the window's side, not with its area.
    highest = F.max_pool2d(image, (1, window), stride=1, padding=(0, radius))
    highest = F.max_pool2d(highest, (window, 1), stride=1, padding=(radius, 0))
    candidate = ((image == highest) & (image > tau))[0, 0].cpu().numpy()
    components, number = label_components(candidate, structure=np.ones((3, 3)))
    names, first = np.unique(components, return_index=True)
    places = torch.from_numpy(first[names > 0])
    values = cam.detach().flatten()[places.to(cam.device)].cpu().numpy()
    kept: list[tuple[int, int]] = []
    for place in places.numpy()[np.argsort(-values, kind="stable")]:
        row, column = divmod(int(place), cam.shape[-1])
        if all(max(abs(row - y), abs(column - x)) > radius for x, y in kept):
            kept.append((column, row))
    return np.asarray(kept, np.float32).reshape(-1, 2)


def library_peaks(cam: NDArray[np.floating], *, radius: int, tau: float) -> NDArray[np.float32]:
    """The further peaks of the released code: scikit-image's ``peak_local_max``, its first one off.

    Not the library (it is no dependency), but what it is described to do with
    ``min_distance=radius`` on the map under a 3 x 3 maximum filter: pixels that are the maximum of
    their window (the border repeated) and above the map's minimum, none within ``radius`` of the
    border, by falling value, none nearer than ``radius`` to a kept one in both directions. Of
    these the map itself must be above tau, and the first one is left out as the global maximum.

    NOTE: the defects are kept on purpose (wsss.md, Sec. 6.4): peaks near the border are never
    found, a peak lies one pixel up and left of the maximum, and if the global maximum is near the
    border the best *other* peak is lost. Returns (x, y) float32 (n, 2), pixels.
    """
    filtered = maximum_filter(cam, size=3, mode="constant")
    highest = maximum_filter(filtered, size=2 * radius + 1, mode="nearest")
    candidate = (filtered == highest) & (filtered > filtered.min())
    inside = np.zeros_like(candidate)
    inside[radius : cam.shape[0] - radius, radius : cam.shape[1] - radius] = True
    rows, columns = np.nonzero(candidate & inside)
    order = np.argsort(-filtered[rows, columns], kind="stable")
    kept: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if all(max(abs(row - y), abs(column - x)) >= radius for x, y in kept):
            kept.append((column, row))
    above = [(x, y) for x, y in kept if cam[y, x] > tau]
    return np.asarray(above[1:], np.float32).reshape(-1, 2)
