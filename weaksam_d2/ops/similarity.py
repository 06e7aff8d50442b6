"""How alike the features of one image's boxes are."""

import torch
from torch import Tensor

__all__ = ["mean_cosine_similarity"]


def mean_cosine_similarity(features: Tensor) -> Tensor:
    """Return the mean cosine similarity over all pairs of different rows.

    features: finite (n, d). Returns a float64 scalar in [-1, 1]: 1 if all rows point one way, 0 if
    they are orthogonal; NaN for fewer than two rows (there is no pair). A row of zeros is similar
    to nothing: its pairs count 0. Time and memory are O(n d): over unit rows u the n (n - 1)
    ordered pairs sum to |sum u|^2 - sum |u|^2. Raises ValueError for another shape or a value
    that is not finite. WeakSAM, Fig. 6.
    """
    if features.ndim != 2 or not torch.isfinite(features).all():
        raise ValueError(f"features must be finite (n, d), got shape {tuple(features.shape)}")
    rows = features.double()
    count = len(rows)
    if count < 2:
        return rows.new_tensor(float("nan"))
    length = rows.norm(dim=1, keepdim=True)
    unit = rows / torch.where(length > 0, length, torch.ones_like(length))
    total = unit.sum(dim=0).square().sum() - (length > 0).sum()
    similarity: Tensor = total / (count * (count - 1))
    return similarity.clamp(-1, 1)
