"""What of a proposal store is measured: some sources, or the first boxes of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from weaksam_d2.artifacts import ProposalStore

__all__ = ["StoreView", "first_boxes", "source_views"]

# Rows of WeakSAM's Table 4. In a store sources lie in the order of merging: coarse before fine.
_ABLATION = {
    "Grid": "dense",
    "FineCAMPeaks": "fine",
    "CoarseCAMPeaks": "coarse",
    "CrossAttentionPeaks": "cross",
}


@dataclass(frozen=True)
class StoreView:
    """Boxes of a store under a name: of ``sources`` (rows of ``source_names``; None: all).

    ``limit`` holds for each image id how many first boxes count; None: all.
    """

    name: str
    store: ProposalStore
    sources: frozenset[int] | None = None
    limit: Mapping[str, int] | None = None

    def boxes(self, image_id: str) -> np.ndarray:
        """Boxes float32 (n, 4) XYXY in the order of rank; KeyError names an absent image."""
        proposals = self.store.read(image_id, masks=False)
        boxes = np.asarray(proposals.boxes)
        if self.sources is not None and len(boxes):
            assert proposals.sources is not None, "source_views has checked this"
            boxes = boxes[np.isin(proposals.sources, sorted(self.sources))]
        return boxes if self.limit is None else boxes[: self.limit[image_id]]


def first_boxes(name: str, view: StoreView, like: StoreView, image_ids: Sequence[str]) -> StoreView:
    """The first boxes of ``view``, in each image as many as ``like`` has (an equal count)."""
    limit = {image_id: len(like.boxes(image_id)) for image_id in image_ids}
    return StoreView(name, view.store, view.sources, limit)


def source_views(view: StoreView, image_ids: Sequence[str]) -> list[StoreView]:
    """Views of one store by source: "dense only", "+ fine", …, then each other source alone.

    Sources are added in the order of the paper's table: grid, fine, coarse, cross, then others;
    those without a box in these images are left out. Thresholds and NMS work within a source, so
    a prefix equals a run of its own with these prompts alone, but for boxes that two sources
    share: such a box counts for the source that was merged first (coarse before fine).

    Raises:
        ValueError: a store that does not say where its boxes come from.

    Source: WeakSAM, Table 4.
    """
    store = view.store
    if "sources" not in store.has:
        raise ValueError(
            f"{store.path} has no sources.npy, so its boxes cannot be told apart by source; "
            "leave out --by-source"
        )
    used: set[int] = set()
    for image_id in image_ids:
        sources = store.read(image_id, masks=False).sources
        used.update([] if sources is None else np.unique(sources).tolist())
    names = store.source_names
    place = {name: rank for rank, name in enumerate(_ABLATION)}
    rows = sorted(used, key=lambda row: (place.get(names[row], len(place)), row))
    short = [_ABLATION.get(names[row], names[row]) for row in rows]
    prefix = f"{view.name}: " if view.name else ""
    views = [
        StoreView(
            prefix + (f"+ {short[end]}" if end else f"{short[0]} only"),
            store,
            frozenset(rows[: end + 1]),
        )
        for end in range(len(rows))
    ]
    alone = zip(short[1:], rows[1:], strict=True)
    return views + [
        StoreView(f"{prefix}{name} only", store, frozenset([row])) for name, row in alone
    ]
