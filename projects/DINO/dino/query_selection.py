"""Mixed query selection: the best tokens say where the queries begin, not what they hold."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .outputs import LayerPrediction
from .pyramid import Pyramid

__all__ = ["make_anchors", "select_queries"]

_SIDE = 0.05  # of an anchor on the first level, in units of the image
_MARGIN = 0.01


def make_anchors(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """Anchor of each token, and whether it can be used.

    An anchor stands on its cell and has sides of ``0.05 * 2^level``.

    Returns:
        Logits (N, S, 4) of (center x, center y, width, height), infinite where unusable, and
        bool (N, S): in the image, and every coordinate between 0.01 and 0.99.
    """
    sides = [[_SIDE * 2**level] for level in range(len(pyramid.shapes))]
    side = pyramid.by_cell(pyramid.filled.new_tensor(sides)).expand(len(pyramid.filled), -1, 2)
    anchors = torch.cat([pyramid.centers, side], dim=-1)
    usable = ((anchors > _MARGIN) & (anchors < 1 - _MARGIN)).all(dim=-1) & pyramid.valid
    return torch.logit(anchors).masked_fill(~usable[..., None], torch.inf), usable


def select_queries(
    memory: Tensor,
    pyramid: Pyramid,
    *,
    embed: nn.Module,
    class_head: nn.Module,
    box_head: nn.Module,
    count: int,
) -> LayerPrediction:
    """Take the tokens whose best class scores highest, and predict classes and boxes from them.

    The boxes have a gradient; as references of the decoder they are to be detached.

    NOTE: unusable tokens come last whatever their score, so that padding changes no choice;
    published code ranks them by the score of a zero token. They fill up where an image has fewer
    usable tokens than there are queries, as do zero tokens where it has fewer tokens at all;
    their box is (1, 1, 1, 1).

    Args:
        memory: encoded tokens (N, S, D).
        pyramid: their geometry.
        embed: (N, S, D) to (N, S, D), takes the tokens with zeros for unusable ones.
        class_head: (..., D) to (..., C).
        box_head: (..., D) to (..., 4).
        count: Q, how many to take.

    Source: extras.md, Sec. 1.1; DINO, Sec. 3.4.
    """
    anchors, usable = make_anchors(pyramid)
    missing = max(0, count - memory.shape[1])
    tokens = embed(F.pad(memory.masked_fill(~usable[..., None], 0.0), (0, 0, 0, missing)))
    logits = class_head(tokens).float()
    usable = F.pad(usable, (0, missing))
    ranks = logits.detach().amax(dim=-1).masked_fill(~usable, -torch.inf)
    best = ranks.topk(count, dim=1).indices
    anchors = _rows(F.pad(anchors, (0, 0, 0, missing), value=torch.inf), best)
    boxes = (box_head(_rows(tokens, best)).float() + anchors).sigmoid()
    return LayerPrediction(logits=_rows(logits, best), boxes=boxes)


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows (N, Q, k) of values (N, S, k) at indices (N, Q)."""
    return values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))
