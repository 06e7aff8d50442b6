"""Label maps drawn on their image."""

import numpy as np

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.visualization.colors import class_color
from weaksam_d2.visualization.draw import _Canvas

__all__ = ["draw_labels"]

_SIDE = 640  # pixels of the longer side
_OPACITY = 0.6
_UNKNOWN = (1.0, 1.0, 1.0)


def draw_labels(
    image: np.ndarray, label: np.ndarray, space: LabelSpace, *, side: int = _SIDE
) -> np.ndarray:
    """Tint each class of a label map, with a line around it and a legend of the classes.

    image: RGB uint8 (H, W, 3). label: uint8 (H, W) of ``space``; background stays as it is, pixels
    to ignore become white. Returns RGB uint8 whose longer side is ``side`` pixels.

    Raises:
        ValueError: another size, or a value that is no label.
    """
    if label.shape != image.shape[:2]:
        raise ValueError(f"the label is {label.shape}, its image {image.shape[:2]} (height, width)")
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()
    wrong = [one for one in present if one >= space.num_labels and one != space.ignore]
    if wrong:
        raise ValueError(f"the label holds {wrong}, which are no labels of {space.name!r}")
    colors = np.zeros((256, 3))
    legend = []
    for one in present:
        if one:
            color = _UNKNOWN if one == space.ignore else class_color(one - 1)
            colors[one] = 255 * np.asarray(color)
            legend.append(("ignored" if one == space.ignore else space.classes[one], color))
    mixed = (1 - _OPACITY) * image + _OPACITY * colors[label]
    picture = np.where((label > 0)[..., None], mixed, image)
    edge = _edges(label) & (label > 0)
    picture[edge] = colors[label[edge]]
    canvas = _Canvas(picture.round().astype(np.uint8), side)
    canvas.legend(legend)
    return canvas.image()


def _edges(label: np.ndarray) -> np.ndarray:
    """Pixels with another label to the right or below, and those neighbors: bool (H, W)."""
    edge = np.zeros(label.shape, bool)
    down, right = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge
