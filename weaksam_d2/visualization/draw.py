"""Entries of the artifacts drawn on their images."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from detectron2.utils.visualizer import Visualizer
from PIL import Image

from weaksam_d2.artifacts import CamMaps, Prompts, Proposals
from weaksam_d2.visualization.colors import class_color, text_color
from weaksam_d2.visualization.masks import tint_masks

__all__ = [
    "draw_boxes",
    "draw_cams",
    "draw_detections",
    "draw_prompts",
    "draw_proposals",
    "draw_pseudo_gt",
]

_SIDE = 640  # pixels; small photographs are enlarged to this side so that labels can be read
_FONT = 25.0  # pixels of such a figure: still readable where pages show it at half size


class _Canvas(Visualizer):
    """detectron2's Visualizer with solid label tags and boxes that stand out on any image."""

    def __init__(self, image: np.ndarray, side: int) -> None:
        _check_image(image)
        super().__init__(image, scale=side / max(image.shape[:2]))
        self.plates: list[tuple[float, float, float, float]] = []  # labels so far, XYXY
        # Points (of line widths and fonts) in one pixel of the finished figure.
        self.unit = 72.0 / self.output.fig.get_dpi()
        # Without fixed limits, an artist at the border would rescale the axes.
        self.output.ax.set_xlim(0, image.shape[1])
        self.output.ax.set_ylim(image.shape[0], 0)

    def box(self, box: np.ndarray, color: Sequence[float], *, width: float, style: str) -> None:
        """Draw one XYXY box: a dark line below a colored one; ``width`` in figure pixels."""
        dark = (0.0, 0.0, 0.0)
        for line, paint, alpha in ((width + 2.0, dark, 0.45), (width, tuple(color), 1.0)):
            self.draw_box(box, alpha=alpha, edge_color=paint, line_style=style)
            # The parent's width follows its font size; ours is in pixels of the figure.
            self.output.ax.patches[-1].set_linewidth(line * self.unit)

    def tag(self, text: str, box: np.ndarray, color: Sequence[float]) -> None:
        """Write a label on a plate of its color: above its box, inside, or below.

        The first place counts that lies in the image and on no other label.
        """
        label = self.output.ax.text(
            0,
            0,
            text,
            size=_FONT * self.unit * max(self.output.fig.get_size_inches()) / 6.4,
            family="DejaVu Sans",
            weight="bold",
            color=text_color(color),
            verticalalignment="top",
            horizontalalignment="left",
            zorder=10,
            bbox={"facecolor": tuple(color), "alpha": 0.92, "pad": 2.0, "edgecolor": "none"},
        )
        extent = label.get_window_extent(self.output.canvas.get_renderer())
        width, height = (side / self.output.scale for side in (extent.width, extent.height))
        x1, y1, _, y2 = (float(value) for value in box)
        x = max(min(x1 + 2, self.output.width - width - 3), 3.0)
        tops = [y1 - height - 4, y1 + 3, y2 + 4, y2 - height - 4]
        tops = [top for top in tops if 2 <= top <= self.output.height - height - 2] or [3.0]
        plates = [(x - 3, top - 3, x + width + 3, top + height + 3) for top in tops]
        free = [plate for plate in plates if not any(map(partial(_overlap, plate), self.plates))]
        plate = (free or plates)[0]
        self.plates.append(plate)
        label.set_position((plate[0] + 3, plate[1] + 3))

    def legend(self, entries: Sequence[tuple[str, Sequence[float]]]) -> None:
        """Write labels below each other in the upper left corner."""
        for text, color in entries:
            top = self.plates[-1][3] + 2 if self.plates else 0.0
            self.tag(text, np.array([0.0, top, 0.0, top]), color)

    def image(self) -> np.ndarray:
        """Return the figure as RGB uint8 (H, W, 3)."""
        return np.ascontiguousarray(self.output.get_image())


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an image to draw on must be RGB uint8 (H, W, 3), got {image.dtype} {image.shape}"
        )


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    *,
    colors: Sequence[Sequence[float]],
    labels: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    width: float = 4.0,
    side: int = _SIDE,
) -> np.ndarray:
    """Draw boxes with optional labels; later ones lie on top.

    ``image`` is RGB uint8 (H, W, 3), ``boxes`` XYXY (n, 4) in its pixels, ``colors`` RGB in
    [0, 1], ``styles`` matplotlib line styles, ``width`` and ``side`` (the longer side of the
    result) pixels of the result. Returns RGB uint8.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if len(colors) != len(boxes) or (labels is not None and len(labels) != len(boxes)):
        raise ValueError(
            f"{len(boxes)} boxes need as many colors and labels, got {len(colors)} colors "
            f"and {'no' if labels is None else len(labels)} labels"
        )
    canvas = _Canvas(image, side)
    for row, box in enumerate(boxes):
        style = "-" if styles is None else styles[row]
        canvas.box(box, colors[row], width=width, style=style)
    for row, box in enumerate(boxes):
        if labels is not None and labels[row]:
            canvas.tag(labels[row], box, colors[row])
    return canvas.image()


def draw_proposals(
    image: np.ndarray, proposals: Proposals, *, limit: int = 0, side: int = _SIDE
) -> np.ndarray:
    """Draw the boxes of one image, colored by source (with a legend); the first lies on top.

    ``limit`` keeps the first so many (0: all). Returns RGB uint8, ``side`` pixels long.
    """
    count = len(proposals.boxes) if limit == 0 else min(limit, len(proposals.boxes))
    sources = np.zeros(count, np.int64) if proposals.sources is None else proposals.sources[:count]
    canvas = _Canvas(image, side)
    for row in range(count)[::-1]:
        color = class_color(int(sources[row]))
        canvas.box(proposals.boxes[row], color, width=1.6 if count > 40 else 2.6, style="-")
    if proposals.source_names:
        present = np.unique(sources).tolist()
        canvas.legend([(proposals.source_names[index], class_color(index)) for index in present])
    return canvas.image()


def draw_pseudo_gt(
    image: np.ndarray,
    annotations: Sequence[Mapping[str, Any]],
    *,
    categories: Sequence[Mapping[str, Any]],
    side: int = _SIDE,
) -> np.ndarray:
    """Draw the pseudo ground truth of one image with class and normalized score.

    ``annotations`` are entries of ``pseudo_gt.json`` (``bbox`` XYWH, dataset ``category_id``),
    ``categories`` its list of ``{"id", "name"}`` in contiguous order. Returns RGB uint8.
    """
    return _draw_entries(image, annotations, categories, score="score_norm", side=side)


def draw_detections(
    image: np.ndarray,
    detections: Sequence[Mapping[str, Any]],
    *,
    categories: Sequence[Mapping[str, Any]],
    score_thresh: float = 0.0,
    limit: int = 0,
    side: int = _SIDE,
) -> np.ndarray:
    """Draw detections of one image: entries of ``detections.json``, best ones on top.

    Only those that score at least ``score_thresh``, at most ``limit`` (0: all). ``categories``
    are ``{"id", "name"}`` in contiguous order. Returns RGB uint8, ``side`` pixels long.
    """
    kept = [entry for entry in detections if entry["score"] >= score_thresh]
    kept = sorted(kept, key=lambda entry: -entry["score"])
    kept = kept[:limit] if limit else kept
    return _draw_entries(image, kept[::-1], categories, score="score", side=side)


def _draw_entries(
    image: np.ndarray,
    entries: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    *,
    score: str,
    side: int,
) -> np.ndarray:
    index = {category["id"]: row for row, category in enumerate(categories)}
    boxes, colors, labels = [], [], []
    for entry in entries:
        if entry["category_id"] not in index:
            raise ValueError(
                f"category id {entry['category_id']} of image {entry.get('image_id')!r} is not "
                f"among the categories {sorted(index)}; use those of the same data set"
            )
        row = index[entry["category_id"]]
        x, y, width, height = entry["bbox"]
        boxes.append([x, y, x + width, y + height])
        colors.append(class_color(row))
        value = f" {_short(entry[score])}" if score in entry else ""
        labels.append(f"{categories[row]['name']}{value}")
    masks = [entry.get("segmentation") for entry in entries]
    if any(masks):
        image = tint_masks(image, masks, colors)
    return draw_boxes(
        image, np.array(boxes, np.float64).reshape(-1, 4), colors=colors, labels=labels, side=side
    )


def _short(score: float) -> str:
    """Two decimals, or an exponent where they would hide a small score."""
    return f"{score:.2f}" if score >= 0.005 or score == 0 else f"{score:.0e}"


def draw_prompts(
    image: np.ndarray,
    prompts: Prompts,
    *,
    class_names: Sequence[str] = (),
    by: str = "class",
    side: int = _SIDE,
) -> np.ndarray:
    """Draw point and box prompts and the peaks they are made of, colored by class.

    Points of a joint prompt are joined to their center; the peaks of a cluster are small and
    joined to its point. ``by``: what colors tell, "class", "source", "head" or "block" (white
    where it does not apply). A legend names them, classes if ``class_names`` are given. Returns
    RGB uint8, ``side`` pixels long.

    Raises:
        ValueError: for another ``by``.
    """
    colors, peak_colors = _prompt_groups(prompts, by)
    canvas = _Canvas(image, side)
    axes = canvas.output.ax
    if prompts.peaks is not None:
        for peak, group in zip(prompts.peaks, peak_colors, strict=True):
            center = prompts.points[prompts.offsets[peak["prompt"]]]
            color = class_color(int(group))
            line = np.array([(peak["x"], peak["y"]), center]) + 0.5
            axes.plot(line[:, 0], line[:, 1], "-", color=color, linewidth=1.0, zorder=3)
            _dot(canvas, line[:1], color, 8.0, above=True)
    for row in range(len(prompts)):
        points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
        color = class_color(int(colors[row]))
        if len(points) > 1:
            for point in points:
                line = np.stack([point, points.mean(axis=0)])
                axes.plot(line[:, 0], line[:, 1], "--", color=color, linewidth=2.0, zorder=3)
        large = prompts.classes[row] >= 0 or prompts.peaks is not None
        # Peaks are pixel indices; half a pixel more is that pixel's center.
        _dot(canvas, points + 0.5, color, 17.0 if large else 7.0)
        if prompts.boxes is not None and np.isfinite(prompts.boxes[row]).all():
            canvas.box(prompts.boxes[row], color, width=2.4, style="-")
    present = np.unique(np.concatenate([colors, peak_colors])).tolist()
    names = {"class": class_names, "source": prompts.source_names}.get(by)
    if names is None:
        names = [f"{by} {group}" for group in range(max(present, default=-1) + 1)]
    canvas.legend([(names[g], class_color(g)) for g in present if 0 <= g < len(names)])
    return canvas.image()


def _dot(
    canvas: _Canvas,
    points: np.ndarray,
    color: Sequence[float],
    size: float,
    *,
    above: bool = False,
) -> None:
    """Filled circles at (n, 2) image positions, ``size`` pixels of the figure wide."""
    canvas.output.ax.plot(
        points[:, 0],
        points[:, 1],
        "o",
        color=color,
        markersize=size * canvas.unit,
        markeredgecolor="black",
        markeredgewidth=0.8,
        zorder=6 if above else 5,
    )


def _prompt_groups(prompts: Prompts, by: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 (P,) and (peaks,): what colors the prompts and their peaks, -1 for nothing."""
    columns = {
        "class": prompts.classes,
        "source": prompts.sources,
        "head": prompts.heads,
        "block": prompts.blocks,
    }
    if by not in columns:
        raise ValueError(f"prompts are colored by {', '.join(columns)}, got {by!r}")
    groups = np.asarray(columns[by], np.int64)
    if prompts.peaks is None:
        return groups, np.zeros(0, np.int64)
    of_peaks = groups[prompts.peaks["prompt"]] if by == "source" else prompts.peaks[by]
    return groups, np.asarray(of_peaks, np.int64)


def draw_cams(
    image: np.ndarray,
    maps: CamMaps,
    *,
    class_names: Sequence[str],
    kind: str = "coarse",
    opacity: float = 0.65,
    side: int = _SIDE,
) -> np.ndarray:
    """Draw one heat map for each class beside each other, scales added, min-max normalized.

    ``kind`` is ``"coarse"`` or ``"fine"``. Returns RGB uint8 whose width is that of all maps;
    the plain image where no class has a map.

    Raises:
        ValueError: for another kind, or maps that are not stored.
    """
    stored = {"coarse": maps.coarse, "fine": maps.fine}
    if kind not in stored:
        raise ValueError(f"kind of a class activation map is 'coarse' or 'fine', got {kind!r}")
    scales = stored[kind]
    if scales is None:
        raise ValueError(f"there are no {kind} maps in this entry; its network gives none")
    panels = []
    for row, index in enumerate(maps.classes):
        heat = _heat([scale[row] for scale in scales], image.shape[:2])
        # Cold regions stay as they are, so that the photograph can be recognized.
        strength = opacity * np.sqrt(heat)[..., None]
        colored = 255 * matplotlib.colormaps["turbo"](heat)[..., :3]
        mixed = (image * (1 - strength) + colored * strength).astype(np.uint8)
        canvas = _Canvas(mixed, side)
        canvas.legend([(str(class_names[int(index)]), class_color(int(index)))])
        panels.append(canvas.image())
    return np.concatenate(panels, axis=1) if panels else _Canvas(image, side).image()


def _heat(maps: Sequence[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """Sum of the maps at image size, min-max normalized; a constant map is zero everywhere."""
    height, width = size
    total = np.zeros((height, width), np.float32)
    for part in maps:
        single = Image.fromarray(np.asarray(part, np.float32))
        total += np.asarray(single.resize((width, height), Image.Resampling.BILINEAR))
    spread = float(total.max() - total.min())
    return (total - total.min()) / spread if spread > 0 else np.zeros_like(total)
