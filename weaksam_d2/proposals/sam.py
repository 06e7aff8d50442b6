"""Proposals by SAM: one encoding for each image, all prompts decoded, source by source."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import Prompts, Proposals
from weaksam_d2.ops.masks import encode_rle
from weaksam_d2.ops.peaks import grid_points
from weaksam_d2.sam import SamBackend, SamChunk, build_sam_backend

from .build import PROPOSAL_METHOD_REGISTRY
from .filter import Candidates, FilterSettings, merge_sources

__all__ = ["SAM"]

# The order of merging; a source of one's own comes after these and has the node of its name in
# capitals.
_NODES = {
    "Grid": "GRID",
    "CoarseCAMPeaks": "COARSE",
    "FineCAMPeaks": "FINE",
    "CrossAttentionPeaks": "CROSS",
}


@PROPOSAL_METHOD_REGISTRY.register()
class SAM:
    """Masks of grid and peak prompts, filtered as each source says, their boxes joined.

    Source: WeakSAM, Sec. 3.2; weaksam.md, Sec. 4.
    """

    @configurable
    def __init__(
        self,
        *,
        backend: SamBackend,
        filters: Mapping[str, FilterSettings],
        points_per_side: int = 32,
        step: float = 1 / 16,
        max_boxes: int = 2000,
        nms: float = 1.0,
        save_masks: bool = False,
    ) -> None:
        """filters: by source name, in the order of merging; step, max_boxes and nms: clean_boxes.

        save_masks: proposals have masks, of which their boxes are the tight ones.
        """
        self.backend = backend
        self.filters = dict(filters)
        self.source_names = tuple(filters)
        self.points_per_side = points_per_side
        self.step = step
        self.max_boxes = max_boxes
        self.nms = nms
        self.save_masks = save_masks

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``WEAKSAM.PROPOSALS`` and ``WEAKSAM.SAM``."""
        node = cfg.WEAKSAM.PROPOSALS
        if node.SAVE_MASKS and node.BOXES_AT != "full":
            raise ValueError(
                f"WEAKSAM.PROPOSALS.SAVE_MASKS True and BOXES_AT {node.BOXES_AT!r} contradict each "
                "other: boxes would not be those of the masks; set BOXES_AT to 'full'"
            )
        filters = {}
        for name in dict.fromkeys([*_NODES, *cfg.WEAKSAM.PROMPTS.SOURCES]):
            key = _NODES.get(name, name.upper())
            if key not in node:
                raise ValueError(
                    f"prompt source {name!r} has no node WEAKSAM.PROPOSALS.{key}; add one with "
                    "MASK_INDICES, QUALITY_THRESH, STABILITY_THRESH and NMS_THRESH"
                )
            filters[name] = FilterSettings.from_node(node[key], by_quality=name == "Grid")
        return {
            "backend": build_sam_backend(cfg),
            "filters": filters,
            "points_per_side": cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE,
            "step": node.DEDUPLICATE,
            "max_boxes": node.MAX_PER_IMAGE,
            "nms": node.NMS_THRESH,
            "save_masks": node.SAVE_MASKS,
        }

    def __call__(
        self, image: np.ndarray, prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Proposals:
        """Boxes of an RGB uint8 image (H, W, 3); see :class:`ProposalMethod`.

        Without a prompt set (prompts None) the grid of the settings is all there is.

        Raises:
            ValueError: prompts of an unknown source, box prompts, or another grid than ours.
        """
        size = (image.shape[0], image.shape[1])
        joined = self._all_prompts(size, prompts, grid)
        decoded, row_of, codes = self._decode(image, joined)
        parts = []
        for source, name in enumerate(self.source_names):
            rows = torch.from_numpy(row_of[joined.sources == source])
            if len(rows):
                passed = self.filters[name](*decoded.select(rows)[:3])
                parts.append((source, _name_masks(passed, rows, decoded)))
        kept, sources = merge_sources(
            parts, size, step=self.step, max_boxes=self.max_boxes, nms=self.nms
        )
        masks = None
        if self.save_masks:
            masks = (
                tuple(codes[row] for row in kept.masks.tolist()) if kept.masks is not None else ()
            )
        return Proposals(
            boxes=kept.boxes.numpy().astype(np.float32),
            image_size=size,
            scores=kept.quality.numpy().astype(np.float32),
            stability=kept.stability.numpy().astype(np.float32),
            sources=sources.numpy(),
            source_names=self.source_names,
            masks=masks,
        )

    def _all_prompts(
        self, size: tuple[int, int], prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Prompts:
        """The grid's points and the stored prompts, their sources as rows of ours."""
        side = self.points_per_side
        if grid is not None and grid["points_per_side"] != side:
            raise ValueError(
                f"the prompt set has a grid of {grid['points_per_side']} points per side, "
                f"WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE is {side}; set the key to "
                f"{grid['points_per_side']} or generate the prompts again"
            )
        points = np.zeros((0, 2), np.float32)
        if prompts is None or grid is not None:
            points = grid_points(size[0], size[1], side)
        parts = [Prompts.single_points(points, source="Grid", source_names=self.source_names)]
        if prompts is not None:
            parts.append(self._with_our_sources(prompts))
        return Prompts.concatenate(parts)

    def _with_our_sources(self, prompts: Prompts) -> Prompts:
        used = [prompts.source_names[row] for row in np.unique(prompts.sources)]
        unknown = sorted(set(used) - set(self.source_names))
        if unknown:
            raise ValueError(
                f"the prompt set has prompts of {', '.join(unknown)}, the proposals know "
                f"{', '.join(self.source_names)}; name the source in WEAKSAM.PROMPTS.SOURCES"
            )
        if prompts.boxes is not None and np.isfinite(prompts.boxes).any():
            raise ValueError("the prompt set has box prompts; proposals are made of points alone")
        rows = [
            self.source_names.index(name) if name in self.source_names else 0
            for name in prompts.source_names
        ]
        sources = np.array(rows, np.uint8)[prompts.sources]
        return replace(
            prompts, sources=sources, source_names=self.source_names, boxes=None, peaks=None
        )

    def _decode(
        self, image: np.ndarray, prompts: Prompts
    ) -> tuple[Candidates, np.ndarray, dict[int, bytes]]:
        """Masks (U, M, …) of the different prompts; for each prompt its row; run-length codes.

        The codes are by row of the U * M masks; only masks that pass the thresholds of a source
        have one, and only if masks are saved. No more masks are held than those of one chunk.
        """
        if not len(prompts):
            nothing = Candidates(torch.zeros(0, 0, 4), *torch.zeros(2, 0, 0))
            return nothing, np.zeros(0, np.int64), {}
        first = _first_equal(prompts)
        decoded, row_of = np.unique(first, return_inverse=True)
        row_of = row_of.reshape(-1)
        used = np.zeros((len(self.source_names), len(decoded)), bool)  # by which sources
        used[prompts.sources, row_of] = True
        want = frozenset({"boxes", "masks"} if self.save_masks else {"boxes"})
        chunks, codes = [], dict[int, bytes]()
        embedding = self.backend.encode(image)
        for chunk in self.backend.decode(embedding, prompts.select(decoded), want=want):
            part = Candidates(
                *(t.float().cpu() for t in (chunk.boxes, chunk.quality, chunk.stability))
            )
            chunks.append(part)
            if self.save_masks:
                codes |= self._encode(chunk, part, used[:, chunk.start :][:, : len(part.boxes)])
        boxes, quality, stability = zip(*(part[:3] for part in chunks), strict=True)
        joined = Candidates(torch.cat(boxes), torch.cat(quality), torch.cat(stability))
        assert len(joined.boxes) == len(decoded), "a SAM backend must give each prompt's masks once"
        return joined, row_of, codes

    def _encode(self, chunk: SamChunk, part: Candidates, used: np.ndarray) -> dict[int, bytes]:
        """Codes of the chunk's masks that a source which used their prompt lets pass."""
        if chunk.masks is None:
            raise ValueError(
                f"the SAM backend {type(self.backend).__name__} gives no masks; set "
                "WEAKSAM.PROPOSALS.SAVE_MASKS to False"
            )
        needed = torch.zeros_like(part.stability, dtype=torch.bool)
        for name, row in zip(self.source_names, used, strict=True):
            rows = torch.from_numpy(np.flatnonzero(row))
            kept = self.filters[name].passing(*part.select(rows)[:3])
            assert kept.masks is not None
            num_masks = part.stability.shape[1]
            needed[rows[kept.masks // num_masks], kept.masks % num_masks] = True
        places = torch.nonzero(needed.flatten())[:, 0]
        codes = encode_rle(chunk.masks.flatten(0, 1)[places.to(chunk.masks.device)])
        start = chunk.start * part.stability.shape[1]
        return dict(zip((start + places).tolist(), codes, strict=True))


def _name_masks(passed: Candidates, rows: torch.Tensor, decoded: Candidates) -> Candidates:
    """The candidates of the prompts at ``rows``, their ``masks`` as rows of all decoded masks."""
    assert passed.masks is not None
    count = decoded.stability.shape[1]
    return passed._replace(masks=rows[passed.masks // count] * count + passed.masks % count)


def _first_equal(prompts: Prompts) -> np.ndarray:
    """int64 (P,): for a single point the first prompt at exactly that point, else itself.

    Sources often peak at the same pixel; its masks are decoded once and count for each of them.
    """
    first = np.arange(len(prompts))
    single = np.flatnonzero(np.diff(prompts.offsets) == 1)
    points = prompts.points[prompts.offsets[single]]
    _, index, inverse = np.unique(points, axis=0, return_index=True, return_inverse=True)
    first[single] = single[index[inverse.reshape(-1)]]
    return first
