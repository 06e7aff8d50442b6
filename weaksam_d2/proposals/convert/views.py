"""Proposals seen another way: joined, merged, cleaned of repeats, cut down; read image by image."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from weaksam_d2.artifacts import Proposals, ProposalStoreWriter
from weaksam_d2.ops.boxes import deduplicate

__all__ = [
    "DeduplicatedProposals",
    "JoinedProposals",
    "MergedProposals",
    "ProposalView",
    "SubsetOfProposals",
    "write_store",
]

_COLUMNS = ("scores", "stability", "sources")


class ProposalView(Protocol):
    """What a `ProposalStore` offers, and each class of this module over others of its kind.

    ``has`` says which of scores, stability, sources and masks the images with boxes have.
    """

    @property
    def image_ids(self) -> Sequence[str]:
        """Images in order."""

    @property
    def source_names(self) -> tuple[str, ...]:
        """What the numbers in ``sources`` stand for."""

    @property
    def has(self) -> frozenset[str]:
        """Optional fields."""

    def read(self, image_id: str, *, masks: bool = True) -> Proposals:
        """Proposals of one image."""


class _Several:
    """Views whose sources are one list: names that several have count as one."""

    def __init__(self, views: Sequence[ProposalView], names: Sequence[str]) -> None:
        if not views or len(views) != len(names):
            raise ValueError(f"{len(views)} proposals and {len(names)} names: give as many, not 0")
        self._views = list(views)
        own = [
            view.source_names if "sources" in view.has else (name,)
            for view, name in zip(views, names, strict=True)
        ]
        self.source_names = tuple(dict.fromkeys(name for names in own for name in names))
        rows = {name: row for row, name in enumerate(self.source_names)}
        self._source_rows = [np.array([rows[n] for n in names], np.uint8) for names in own]
        self.has = frozenset(field for view in views for field in view.has) | {"sources"}

    def _part(self, number: int, image_id: str, masks: bool) -> Proposals:
        """Proposals of one view, with every field of all views."""
        item = self._views[number].read(image_id, masks=masks)
        count = len(item)
        if masks and count and "masks" in self.has and item.masks is None:
            raise ValueError(
                f"image {image_id!r} has boxes without masks, other boxes have masks: give masks "
                "to all, or take them from all (--no-masks)"
            )
        rows = self._source_rows[number]
        sources = np.zeros(count, np.uint8) if item.sources is None else item.sources
        columns: dict[str, Any] = {"sources": rows[sources] if count else sources}
        for name in self.has & {"scores", "stability"}:
            given = getattr(item, name)
            columns[name] = np.full(count, np.nan, np.float32) if given is None else given
        return replace(item, source_names=self.source_names, **columns)


class JoinedProposals(_Several):
    """Proposals of different images, one data set's after the other's.

    ``names`` are the sources of views that say nothing of theirs.

    Raises:
        ValueError: an image is in two of them; some have masks and some have not.
    """

    def __init__(self, views: Sequence[ProposalView], names: Sequence[str]) -> None:
        super().__init__(views, names)
        self._owner: dict[str, int] = {}
        for number, view in enumerate(views):
            for image_id in view.image_ids:
                if image_id in self._owner:
                    raise ValueError(
                        f"image {image_id!r} is in {names[self._owner[image_id]]} and in "
                        f"{names[number]}; boxes of the same images are merged by --merge boxes"
                    )
                self._owner[image_id] = number
        self.image_ids = list(self._owner)

    def read(self, image_id: str, *, masks: bool = True) -> Proposals:
        """Proposals of one image."""
        return self._part(self._owner[image_id], image_id, masks)


class MergedProposals(_Several):
    """Proposals of the same images: the boxes of the first view, then those of the second, …

    A score that a view does not have is NaN. ``names`` as in :class:`JoinedProposals`.

    Raises:
        ValueError: they are not of the same images (of the same sizes, when they are read); some
            have masks and some have not.
    """

    def __init__(self, views: Sequence[ProposalView], names: Sequence[str]) -> None:
        super().__init__(views, names)
        self.image_ids = list(views[0].image_ids)
        known = set(self.image_ids)
        for view, name in zip(views[1:], names[1:], strict=True):
            other = set(view.image_ids)
            if other != known:
                example = sorted(other ^ known)[0]
                raise ValueError(
                    f"{names[0]} and {name} are not of the same images: {len(known - other)} and "
                    f"{len(other - known)} are in one only, for example {example!r}; different "
                    "images are joined by --merge images"
                )

    def read(self, image_id: str, *, masks: bool = True) -> Proposals:
        """Proposals of one image."""
        parts = [self._part(number, image_id, masks) for number in range(len(self._views))]
        sizes = sorted({part.image_size for part in parts})
        if len(sizes) > 1:
            raise ValueError(f"image {image_id!r} has the sizes {sizes} (height, width)")
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("boxes", *sorted(self.has & set(_COLUMNS)))
        }
        joined = None
        if masks and "masks" in self.has:
            joined = tuple(mask for part in parts for mask in part.masks or ())
        return Proposals(
            image_size=sizes[0], source_names=self.source_names, masks=joined, **columns
        )


class DeduplicatedProposals:
    """Proposals without repeats: of boxes equal after rounding to ``step`` pixels the first stays.

    Source: weaksam.md, Sec. 4.4.
    """

    def __init__(self, view: ProposalView, step: float) -> None:
        if step <= 0:
            raise ValueError(f"step must be a positive number of pixels, got {step}")
        self._view, self._step = view, step
        self.image_ids, self.source_names, self.has = view.image_ids, view.source_names, view.has

    def read(self, image_id: str, *, masks: bool = True) -> Proposals:
        """Proposals of one image."""
        item = self._view.read(image_id, masks=masks)
        return _rows(item, deduplicate(torch.from_numpy(item.boxes), self._step).numpy())


class SubsetOfProposals:
    """Some of the images, of the sources, and of the boxes of each image (the first ones).

    Raises:
        ValueError: an image or a source that is not there.
    """

    def __init__(
        self,
        view: ProposalView,
        *,
        image_ids: Sequence[str] | None = None,
        sources: Collection[str] | None = None,
        top_k: int | None = None,
        masks: bool = True,
    ) -> None:
        known = set(view.image_ids) if image_ids is not None else set()
        if missing := [i for i in dict.fromkeys(image_ids or ()) if i not in known]:
            raise ValueError(f"{len(missing)} images are not there, for example {missing[:3]}")
        if foreign := sorted(set(sources or ()) - set(view.source_names)):
            raise ValueError(f"there are no sources {foreign}; there are {list(view.source_names)}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k must not be negative, got {top_k}")
        self._view, self._top_k, self._masks = view, top_k, masks
        self._sources: np.ndarray | None = None
        if sources is not None:
            wanted = [row for row, name in enumerate(view.source_names) if name in set(sources)]
            self._sources = np.array(wanted, np.uint8)
        self.image_ids = list(dict.fromkeys(view.image_ids if image_ids is None else image_ids))
        self.source_names = view.source_names
        self.has = view.has if masks else view.has - {"masks"}

    def read(self, image_id: str, *, masks: bool = True) -> Proposals:
        """Proposals of one image."""
        item = self._view.read(image_id, masks=masks and self._masks)
        index = np.arange(len(item))
        if self._sources is not None and item.sources is not None:
            index = index[np.isin(item.sources, self._sources)]
        return _rows(item, index[: self._top_k])


def _rows(item: Proposals, index: np.ndarray) -> Proposals:
    """Some rows of one image's proposals."""
    columns: dict[str, Any] = {
        name: None if getattr(item, name) is None else getattr(item, name)[index]
        for name in _COLUMNS
    }
    masks = None if item.masks is None else tuple(item.masks[row] for row in index)
    return replace(item, boxes=item.boxes[index], masks=masks, **columns)


def write_store(view: ProposalView, writer: ProposalStoreWriter) -> dict[str, int]:
    """Write every image of a view; returns how many images and proposals that were."""
    proposals = 0
    for image_id in view.image_ids:
        item = view.read(image_id)
        proposals += len(item)
        writer.add(
            image_id,
            item.boxes,
            scores=item.scores,
            stability=item.stability,
            sources=item.sources,
            masks=item.masks,
            image_size=item.image_size,
        )
    return {"images": len(view.image_ids), "proposals": proposals}
