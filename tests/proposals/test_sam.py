"""The SAM method: one encoding, each point decoded once, sources filtered on their own."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg

from weaksam_d2.artifacts import Prompts
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.proposals import SAM, FilterSettings, build_proposal_method
from weaksam_d2.sam import Embedding, SamChunk

IMAGE = np.zeros((40, 60, 3), np.uint8)
COARSE, FINE, CROSS = "CoarseCAMPeaks", "FineCAMPeaks", "CrossAttentionPeaks"


class Squares:
    """A backend whose mask m is the square of side 2 (m + 1) around the mean of the points."""

    def __init__(self) -> None:
        self.encoded = 0
        self.decoded: list[list[tuple[float, ...]]] = []

    def encode(self, image: np.ndarray) -> Embedding:
        self.encoded += 1
        return Embedding(torch.zeros(1, 1, 1, 1), image.shape[:2], image.shape[:2])

    def decode(self, embedding: Embedding, prompts: Prompts, **kwargs: Any) -> Iterator[SamChunk]:
        for start in range(0, len(prompts), 2):
            rows = range(start, min(start + 2, len(prompts)))
            points = [prompts.points[prompts.offsets[r] : prompts.offsets[r + 1]] for r in rows]
            self.decoded += [[tuple(p) for p in group.tolist()] for group in points]
            center = torch.from_numpy(np.stack([group.mean(axis=0) for group in points]))
            half = torch.arange(1.0, 4.0)[None, :, None]
            boxes = torch.cat([center[:, None] - half, center[:, None] + half], dim=-1)
            quality = torch.full((len(points), 3), 0.5)
            yield SamChunk(start=start, boxes=boxes, quality=quality, stability=quality)


def _method(backend: Squares, side: int = 2, **settings: Any) -> SAM:
    filters = {
        "Grid": FilterSettings((0,), 0.3, 0.3, 0.3, by_quality=True),
        COARSE: FilterSettings((1, 2)),
        FINE: FilterSettings((1, 2)),
        CROSS: FilterSettings((2,), nms=0.9),
    }
    return SAM(backend=backend, filters=filters, points_per_side=side, **settings)


def _prompts(*entries: tuple[str, list[tuple[float, float]]]) -> Prompts:
    """Entries of (source, points); the set names its sources in an order of its own."""
    names = (CROSS, COARSE, "Grid", FINE)
    count = len(entries)
    return Prompts(
        points=np.array([p for _, group in entries for p in group], np.float32).reshape(-1, 2),
        offsets=np.cumsum([0, *(len(group) for _, group in entries)], dtype=np.int64),
        scores=np.ones(count, np.float32),
        classes=np.zeros(count, np.int32),
        sources=np.array([names.index(source) for source, _ in entries], np.uint8),
        source_names=names,
    )


def _described(proposals: Any) -> list[tuple[str, float, float, float]]:
    """(source, center x, center y, side) of each box."""
    rows = zip(proposals.boxes.tolist(), proposals.sources, strict=True)
    names = proposals.source_names
    return [(names[s], (b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0]) for b, s in rows]


def test_sources_are_merged_in_order_of_the_method_and_points_decoded_once() -> None:
    backend = Squares()
    prompts = _prompts(
        (CROSS, [(20, 20)]),
        (COARSE, [(20, 20)]),
        (COARSE, [(40, 20)]),
        (COARSE, [(20, 20), (40, 20)]),
        (FINE, [(20, 20)]),
    )
    proposals = _method(backend, step=0)(IMAGE, prompts, {"points_per_side": 2})
    assert backend.encoded == 1
    # The grid's four points, the two peaks and the joint prompt.
    assert len(backend.decoded) == 7
    assert sorted(map(len, backend.decoded)) == [1] * 6 + [2]
    assert _described(proposals) == [
        *[("Grid", x, y, 2) for y in (10, 30) for x in (15, 45)],
        *[(COARSE, x, 20, side) for x in (20, 40, 30) for side in (4, 6)],
        *[(FINE, 20, 20, side) for side in (4, 6)],
        (CROSS, 20, 20, 6),
    ]
    assert proposals.image_size == (40, 60)
    assert proposals.boxes.dtype == np.float32 and proposals.sources.dtype == np.uint8
    assert proposals.scores.tolist() == [0.5] * 13


def test_a_box_of_several_sources_belongs_to_the_first() -> None:
    prompts = _prompts((FINE, [(20, 20)]), (CROSS, [(20, 20)]), (COARSE, [(20, 20)]))
    proposals = _method(Squares())(IMAGE, prompts, None)
    assert _described(proposals) == [(COARSE, 20, 20, 4), (COARSE, 20, 20, 6)]


def test_without_a_prompt_set_the_grid_is_all() -> None:
    assert {row[0] for row in _described(_method(Squares())(IMAGE, None, None))} == {"Grid"}


def test_a_prompt_set_without_grid_and_prompts_gives_no_boxes() -> None:
    backend = Squares()
    proposals = _method(backend)(IMAGE, _prompts(), None)
    assert proposals.boxes.shape == (0, 4) and len(proposals.sources) == 0
    assert backend.encoded == 0  # nothing to decode


def test_the_cap_holds() -> None:
    prompts = _prompts((COARSE, [(20, 20)]), (CROSS, [(40, 20)]))
    proposals = _method(Squares(), max_boxes=5)(IMAGE, prompts, {"points_per_side": 2})
    assert [row[0] for row in _described(proposals)] == ["Grid"] * 4 + [COARSE]


def test_boxes_are_clipped_to_the_image() -> None:
    proposals = _method(Squares())(IMAGE, _prompts((CROSS, [(1, 39)])), None)
    assert proposals.boxes.tolist() == [[0, 36, 4, 40]]


def test_another_grid_an_unknown_source_and_box_prompts_are_refused() -> None:
    method = _method(Squares())
    with pytest.raises(ValueError, match="grid of 8 points per side"):
        method(IMAGE, _prompts(), {"points_per_side": 8})
    prompts = Prompts.single_points(
        np.ones((1, 2), np.float32), source="Saliency", source_names=("Grid", "Saliency")
    )
    with pytest.raises(ValueError, match="prompts of Saliency"):
        method(IMAGE, prompts, None)
    boxes = Prompts(
        points=np.zeros((0, 2), np.float32),
        offsets=np.zeros(2, np.int64),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int32),
        sources=np.zeros(1, np.uint8),
        source_names=("Grid",),
        boxes=np.array([[0, 0, 5, 5]], np.float32),
    )
    with pytest.raises(ValueError, match="box prompts"):
        method(IMAGE, boxes, None)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.WEAKSAM.SAM.BACKEND = "FakeSam"
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_config_gives_the_paper_settings(cfg: CfgNode) -> None:
    method = build_proposal_method(cfg)
    assert isinstance(method, SAM)
    assert method.source_names == ("Grid", COARSE, FINE, CROSS)
    assert method.filters["Grid"] == FilterSettings((0, 1, 2), 0.3, 0.3, 0.3, by_quality=True)
    assert method.filters[FINE] == FilterSettings((1, 2), 0.0, 0.0, 1.0)
    assert method.filters[CROSS] == FilterSettings((1, 2), 0.0, 0.0, 0.9)
    assert (method.points_per_side, method.step, method.max_boxes) == (32, 1 / 16, 2000)


def test_a_source_of_ones_own_needs_a_node(cfg: CfgNode) -> None:
    cfg.WEAKSAM.PROMPTS.SOURCES = ("Grid", "Saliency")
    with pytest.raises(ValueError, match="no node WEAKSAM.PROPOSALS.SALIENCY"):
        build_proposal_method(cfg)
    cfg.WEAKSAM.PROPOSALS.SALIENCY = cfg.WEAKSAM.PROPOSALS.CROSS.clone()
    assert build_proposal_method(cfg).source_names[-1] == "Saliency"


def test_an_unknown_method_is_named(cfg: CfgNode) -> None:
    cfg.WEAKSAM.PROPOSALS.METHOD = "Boxes"
    with pytest.raises(ValueError, match="'Boxes', allowed: EdgeBoxes, .*SAM, Selective"):
        build_proposal_method(cfg)


def test_the_fake_sam_proposes_boxes_inside_the_image(cfg: CfgNode) -> None:
    cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE = 3
    proposals = build_proposal_method(cfg)(IMAGE, None, None)
    x1, y1, x2, y2 = proposals.boxes.T
    assert len(proposals.boxes) >= 4
    assert (x1 >= 0).all() and (x1 < x2).all() and (x2 <= 60).all()
    assert (y1 >= 0).all() and (y1 < y2).all() and (y2 <= 40).all()
