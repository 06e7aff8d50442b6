"""What a proposal store holds, in figures; and a check of its masks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weaksam_d2.artifacts import Proposals, ProposalStore
from weaksam_d2.artifacts.coco_json import rle_runs

from .views import ProposalView

__all__ = ["check_masks", "proposal_statistics"]

SIDE_EDGES = (0, 8, 16, 32, 64, 96, 128, 256, 512)  # pixels, of the square root of the area
ASPECT_EDGES = (0, 1 / 4, 1 / 2, 1, 2, 4)  # width / height
SHARE_EDGES = (0, 0.01, 0.04, 0.1, 0.25, 0.5, 0.9)  # of the image's area


def proposal_statistics(view: ProposalView) -> dict[str, Any]:
    """Images, boxes, boxes of an image (mean, median, least, most), sizes, aspects, sources.

    The histograms map the lower edge of each bin, as text, to the percent of all boxes in it, the
    last bin being open: ``side`` the square root of the area in pixels, ``aspect`` width by
    height, ``image_share`` the part of the image. ``sources`` has the boxes of each. Figures that
    are not defined (no box) are absent.
    """
    counts, sources = [], np.zeros(len(view.source_names), np.int64)
    edges = {"side": SIDE_EDGES, "aspect": ASPECT_EDGES, "image_share": SHARE_EDGES}
    histograms = {name: np.zeros(len(bins), np.int64) for name, bins in edges.items()}
    for image_id in view.image_ids:
        item = view.read(image_id, masks=False)
        counts.append(len(item))
        if item.sources is not None:
            sources += np.bincount(item.sources, minlength=len(sources))
        for name, values in _measures(item).items():
            rows = np.searchsorted(edges[name], values, side="right") - 1
            histograms[name] += np.bincount(rows, minlength=len(edges[name]))
    boxes = sum(counts)
    figures: dict[str, Any] = {
        "images": len(counts),
        "images_without_boxes": sum(count == 0 for count in counts),
        "boxes": boxes,
        "has": sorted(view.has),
    }
    if counts:
        figures["boxes_per_image"] = {
            "mean": round(boxes / len(counts), 2),
            "median": float(np.median(counts)),
            "min": min(counts),
            "max": max(counts),
        }
    if "sources" in view.has:
        figures["sources"] = dict(zip(view.source_names, sources.tolist(), strict=True))
    if boxes:
        figures |= {
            name: {
                f"{low:g}": round(100 * int(n) / boxes, 2)
                for low, n in zip(bins, histograms[name], strict=True)
            }
            for name, bins in edges.items()
        }
    return figures


def _measures(item: Proposals) -> Mapping[str, np.ndarray]:
    sides = (item.boxes[:, 2:] - item.boxes[:, :2]).astype(np.float64)
    area = sides.prod(axis=1)
    height, width = item.image_size
    return {
        "side": np.sqrt(area),
        "aspect": sides[:, 0] / sides[:, 1],
        "image_share": area / (height * width),
    }


def check_masks(store: ProposalStore, *, limit: int = 100) -> list[str]:
    """Masks that do not fill their image, each as a sentence, at most ``limit``; else nothing.

    Complements `ProposalStore.check`, which sees every box; a mask takes ten microseconds.
    """
    problems: list[str] = []
    if "masks" not in store.has:
        return problems
    for image_id in store.image_ids:
        item = store[image_id]
        for row, counts in enumerate(item.masks or ()):
            problem = _mask_problem(counts, item.image_size)
            if problem:
                problems.append(f"mask {row} of image {image_id!r} {problem}")
            if len(problems) == limit:
                return [*problems, "and perhaps more"]
    return problems


def _mask_problem(counts: bytes, size: tuple[int, int]) -> str:
    try:
        runs = rle_runs(counts)
    except ValueError as error:
        return str(error)
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        return f"has {sum(runs)} pixels, expected {size[0]} x {size[1]} (height x width)"
    return "" if sum(runs[1::2]) else "is empty"
