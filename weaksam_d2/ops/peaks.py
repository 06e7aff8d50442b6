"""Points of an image that prompt a segmenter: peaks of activation maps, cluster centers, a grid."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as label_components
from scipy.spatial import KDTree

from weaksam_d2.ops.maps import max_pool_same

__all__ = ["cluster_members", "cluster_points", "find_peaks", "grid_points"]

logger = logging.getLogger(__name__)

_MAX_ITERATIONS = 300  # of k-means


def find_peaks(
    cam: NDArray[np.floating[Any]],
    *,
    kernel_size: int = 17,
    threshold: float = 0.9,
    topk: int = 25,
    metric: str = "l1",
    plateau: str = "all",
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the local maxima of a normalized activation map.

    cam: (H, W) in [0, 1]. kernel_size: pixels; an even one pools with the next odd window.
    threshold: a peak has at least this value. topk: candidates that enter the distance rule, best
    first; 0: all. metric: a candidate goes if a kept one is nearer than ``(kernel_size - 1) // 2``
    in L1 (``"l1"``) or not farther than ``kernel_size / 2`` in L2 (``"l2"``). plateau: ``"all"``
    pixels of a flat top are candidates, or only its ``"first"`` in row-major order.
    Returns points (x, y) float32 (n, 2), in pixels, and values float32 (n,), falling; ties in
    row-major order. A map that is not finite has no peaks. Raises ValueError for a map without
    pixels or a bad option. WeakSAM, Sec. 3.1, Alg. 1.
    """
    cam = np.asarray(cam)
    if cam.dtype != np.float64:
        cam = cam.astype(np.float32)
    _check_peak_options(cam, kernel_size, threshold, metric, plateau)
    if not np.isfinite(cam).all():
        logger.warning("a map with values that are not finite has no peaks")
        return np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    window = kernel_size if kernel_size % 2 else kernel_size + 1
    candidate = (cam == max_pool_same(cam, window)) & (cam >= threshold)
    if plateau == "first":
        candidate = _first_of_plateaus(candidate)
    rows, columns = np.nonzero(candidate)
    values = cam[rows, columns]
    order = np.argsort(-values, kind="stable")
    order = order[:topk] if topk > 0 else order
    xy = np.stack([columns[order], rows[order]], axis=1).astype(np.float32)
    kept = _suppress_near(xy, kernel_size, metric)
    return xy[kept], values[order][kept].astype(np.float32)


def cluster_points(
    xy: NDArray[np.floating[Any]], *, divisor: int = 5, seed: int = 0, max_points: int = 20000
) -> NDArray[np.float32]:
    """Replace points by the centers of their k-means clusters.

    xy: (n, 2) pixels; rows that are not finite are left out. divisor: there are
    ``max(1, n // divisor)`` clusters, at most one for each distinct point. seed: of the k-means++
    start. max_points: of more points a uniform sample is clustered (logged). Returns float32
    (k, 2); the order of the points does not matter. Raises ValueError if divisor is below 1.
    WeakSAM, Sec. 3.1 (instance-aware prompts).
    """
    return cluster_members(xy, divisor=divisor, seed=seed, max_points=max_points)[0]


def cluster_members(
    xy: NDArray[np.floating[Any]], *, divisor: int = 5, seed: int = 0, max_points: int = 20000
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cluster points as :func:`cluster_points` does, and tell where each of them went.

    Returns the centers float32 (k, 2) and int64 (n,), for each point the row of its center: the
    nearest one, also for points that were left out of the sample; -1 for a point that is not
    finite. Raises ValueError if divisor is below 1.
    """
    if divisor < 1:
        raise ValueError(f"divisor must be at least 1, got {divisor}")
    given = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
    finite = np.isfinite(given).all(axis=1)
    owner = np.full(len(given), -1, np.int64)
    points = given[finite]
    if len(points) == 0:
        return np.zeros((0, 2), np.float32), owner
    rng = np.random.default_rng(seed)
    points = points[np.lexsort((points[:, 0], points[:, 1]))]
    if len(points) > max_points:
        logger.warning("clustering a sample of %d of %d points", max_points, len(points))
        points = points[np.sort(rng.choice(len(points), max_points, replace=False))]
    distinct, counts = np.unique(points, axis=0, return_counts=True)
    k = min(max(1, len(points) // divisor), len(distinct))
    centers = _k_means(distinct, counts.astype(np.float64), k, rng)
    # The last step of k-means again, so equal points have one center whatever their order.
    owner[finite] = KDTree(centers).query(given[finite])[1]
    return centers.astype(np.float32), owner


def grid_points(h: int, w: int, s: int) -> NDArray[np.float32]:
    """Return the centers of an s x s grid over the image.

    h, w: image size in pixels. Returns (x, y) float32 (s * s, 2), row-major. Raises ValueError if
    a number is not positive. WeakSAM, Sec. 3.1 (spatial-aware prompts).
    """
    if min(h, w, s) < 1:
        raise ValueError(f"image size and points per side must be positive, got {h}, {w}, {s}")
    x = (np.arange(s) + 0.5) * w / s
    y = (np.arange(s) + 0.5) * h / s
    return np.stack([np.tile(x, s), np.repeat(y, s)], axis=1).astype(np.float32)


def _check_peak_options(
    cam: NDArray[np.floating[Any]], kernel_size: int, threshold: float, metric: str, plateau: str
) -> None:
    if cam.ndim != 2 or cam.size == 0:
        raise ValueError(f"cam must have shape (H, W) with H, W > 0, got {cam.shape}")
    if metric not in ("l1", "l2"):
        raise ValueError(f"metric must be 'l1' or 'l2', got {metric!r}")
    if plateau not in ("all", "first"):
        raise ValueError(f"plateau must be 'all' or 'first', got {plateau!r}")
    if kernel_size < 2:
        raise ValueError(f"kernel_size must be at least 2 pixels, got {kernel_size}")
    if threshold <= 0:
        raise ValueError(f"threshold must be above 0 (a constant map is 0), got {threshold}")


def _first_of_plateaus(candidate: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # Neighbors that are both maxima of a window of at least 3 have the same value.
    components, _ = label_components(candidate, structure=np.ones((3, 3)))
    names, first = np.unique(components, return_index=True)
    kept = np.zeros(candidate.size, dtype=np.bool_)
    kept[first[names > 0]] = True
    return kept.reshape(candidate.shape)


def _suppress_near(xy: NDArray[np.float32], kernel_size: int, metric: str) -> NDArray[np.intp]:
    alive = np.ones(len(xy), dtype=np.bool_)
    kept = []
    for i in range(len(xy)):
        if not alive[i]:
            continue
        kept.append(i)
        delta = np.abs(xy - xy[i])
        if metric == "l1":
            near = delta.sum(axis=1) < (kernel_size - 1) // 2
        else:
            near = (delta**2).sum(axis=1) <= (kernel_size / 2) ** 2
        alive &= ~near
    return np.array(kept, dtype=np.intp)


def _k_means(
    points: NDArray[np.float64], counts: NDArray[np.float64], k: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Lloyd's algorithm on k <= n distinct points with multiplicities."""
    if k == len(points):
        return points
    centers = _plus_plus_start(points, counts, k, rng)
    previous: NDArray[np.intp] | None = None
    for _ in range(_MAX_ITERATIONS):
        distance, owner = KDTree(centers).query(points)
        if previous is not None and np.array_equal(owner, previous):
            break
        previous = owner
        mass = np.bincount(owner, weights=counts, minlength=k)
        for axis in range(2):
            total = np.bincount(owner, weights=counts * points[:, axis], minlength=k)
            centers[:, axis] = total / np.maximum(mass, 1)
        empty = np.flatnonzero(mass == 0)
        # A cluster that lost its points starts again at the worst represented ones.
        centers[empty] = points[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centers


def _plus_plus_start(
    points: NDArray[np.float64], counts: NDArray[np.float64], k: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    chosen = [int(rng.choice(len(points), p=counts / counts.sum()))]
    nearest = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < k:
        weight = counts * nearest
        chosen.append(int(rng.choice(len(points), p=weight / weight.sum())))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return points[chosen]
