"""Grad-CAM and its refinement by attention affinity (CLIP-ES, Sec. 3.1-3.2)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.ndimage import label as label_components
from torch import Tensor

__all__ = ["activation_box_mask", "grad_cam", "propagate", "sinkhorn", "symmetrize"]

BOX_RULES = ("half_open", "reference")


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Weight feature channels by their mean gradient and keep the positive part of the sum.

    features: (n, D) of n patches. gradients: (K, n, D), of K class scores with respect to the
    features. Returns (K, n), not negative, not normalized. Raises ValueError if the shapes do not
    fit. Selvaraju et al., ICCV 2017; wsss.md, Sec. 3.5, step 5.
    """
    if gradients.ndim != 3 or gradients.shape[1:] != features.shape:
        raise ValueError(
            f"gradients must have shape (K, {', '.join(map(str, features.shape))}) to fit the "
            f"features, got {tuple(gradients.shape)}"
        )
    return torch.relu(gradients.mean(dim=1) @ features.T)


def sinkhorn(affinity: Tensor, iterations: int = 3) -> Tensor:
    """Divide by column sums, then by row sums, over and over: towards a doubly stochastic matrix.

    affinity: (n, n), not negative. A row or column of zeros stays. Returns (n, n); after the last
    round the rows sum to 1. Raises ValueError for another shape or negative iterations. wsss.md,
    Sec. 3.5, step 6.
    """
    _check_square(affinity)
    if iterations < 0:
        raise ValueError(f"SINKHORN iterations must not be negative, got {iterations}")
    tiny = torch.finfo(affinity.dtype).tiny
    for _ in range(iterations):
        affinity = affinity / affinity.sum(dim=0, keepdim=True).clamp(min=tiny)
        affinity = affinity / affinity.sum(dim=1, keepdim=True).clamp(min=tiny)
    return affinity


def symmetrize(affinity: Tensor) -> Tensor:
    """Return the mean of a matrix (n, n) and its transpose."""
    _check_square(affinity)
    return (affinity + affinity.T) / 2


def propagate(transition: Tensor, values: Tensor, steps: int = 2) -> Tensor:
    """Spread values over patches: ``transition`` to the power of ``steps``, times each map.

    transition: (n, n). values: (K, n). Returns (K, n). A product with the maps for each step costs
    O(K n^2), the power of the matrix O(n^3). wsss.md, Sec. 3.5, steps 6 and 8.
    """
    _check_square(transition)
    spread = values.T
    for _ in range(steps):
        spread = transition @ spread
    return spread.T


def activation_box_mask(
    cam: NDArray[np.floating[Any]], *, threshold: float, rule: str = "half_open"
) -> NDArray[np.bool_]:
    """Return the union of the boxes around the bright components of an activation map.

    cam: (h, w) in [0, 1]. threshold: share of the maximum; both are counted in 256 levels, and
    what lies above belongs to a component (8 neighbors). rule: "half_open", or "reference", whose
    boxes lose their last column and row where they touch the right and the lower border. Returns
    bool (h, w); a map of zeros has no box. Raises ValueError for an unknown rule or a threshold
    outside [0, 1). wsss.md, Sec. 3.5, step 7.
    """
    if rule not in BOX_RULES:
        raise ValueError(f"BOX is {rule!r}, allowed: {', '.join(BOX_RULES)}")
    if not 0 <= threshold < 1:
        raise ValueError(f"BOX_THRESH must be in [0, 1), got {threshold}")
    levels = (np.clip(cam, 0, 1) * 255).astype(np.uint8)
    bright = levels > int(threshold * int(levels.max(initial=0)))
    components, _ = label_components(bright, structure=np.ones((3, 3)))
    mask = np.zeros(cam.shape, np.bool_)
    for rows, columns in find_objects(components):
        bottom, right = rows.stop, columns.stop
        if rule == "reference":
            bottom, right = min(bottom, cam.shape[0] - 1), min(right, cam.shape[1] - 1)
        mask[rows.start : bottom, columns.start : right] = True
    return mask


def _check_square(matrix: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"an affinity must be a square matrix, got {tuple(matrix.shape)}")
