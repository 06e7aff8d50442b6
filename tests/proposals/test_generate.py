"""generate_proposals: records, prompts and a method to a store; Selective Search; real SAM."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg

from weaksam_d2.artifacts import (
    Prompts,
    PromptSet,
    PromptSetWriter,
    Proposals,
    ProposalStore,
    ProposalStoreWriter,
)
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.data import DamagedImageError
from weaksam_d2.proposals import (
    ProposalsSummary,
    SelectiveSearch,
    build_proposal_method,
    generate_proposals,
)

DISC = (40, 50, 25)  # x, y, radius of the drawn object


def _drawn() -> np.ndarray:
    """A red disc and a blue bar on a green ground, 120 x 160."""
    image = np.full((120, 160, 3), (60, 120, 60), np.uint8)
    cv2.circle(image, DISC[:2], DISC[2], (210, 40, 40), -1)
    cv2.rectangle(image, (100, 30), (140, 100), (40, 40, 200), -1)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _best_iou(boxes: np.ndarray, box: tuple[float, ...]) -> float:
    """A plain reference: the best overlap of any box with one."""
    best = 0.0
    for x1, y1, x2, y2 in boxes.tolist():
        width = max(0.0, min(x2, box[2]) - max(x1, box[0]))
        height = max(0.0, min(y2, box[3]) - max(y1, box[1]))
        union = (x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - width * height
        best = max(best, width * height / union)
    return best


class OneBox:
    """Proposes the first prompt's point as the corner of a box, and remembers its arguments."""

    source_names = ("Grid", "CoarseCAMPeaks")

    def __init__(self) -> None:
        self.grids: list[Any] = []

    def __call__(self, image: np.ndarray, prompts: Prompts | None, grid: Any) -> Proposals:
        self.grids.append(grid)
        corner = (1.0, 1.0) if prompts is None else tuple(prompts.points[0])
        return Proposals(
            boxes=np.array([[*corner, 30, 20]], np.float32),
            image_size=image.shape[:2],
            scores=np.array([0.5], np.float32),
            stability=np.array([0.5], np.float32),
            sources=np.array([1], np.uint8),
            source_names=self.source_names,
        )


RECORDS = [
    {"image_id": name, "file_name": f"{name}.jpg", "height": 24, "width": 32}
    for name in ("b", "broken", "a")
]


def _read(file_name: str, format: str) -> np.ndarray:
    if file_name == "broken.jpg":
        raise DamagedImageError("broken.jpg is truncated")
    return np.zeros((24, 32, 3), np.uint8)


def _run(path: Path, prompts: PromptSet | None, method: Any, **extra: Any) -> ProposalsSummary:
    with ProposalStoreWriter(path, source_names=method.source_names) as writer:
        return generate_proposals(
            RECORDS, prompts, method, writer=writer, read_image=_read, **extra
        )


def _prompt_set(path: Path, size: tuple[int, int] = (24, 32)) -> PromptSet:
    names = ("Grid", "CoarseCAMPeaks")
    with PromptSetWriter(path, source_names=names, grid={"points_per_side": 4}) as writer:
        for x, record in enumerate(RECORDS):
            points = np.array([[x + 2, 3]], np.float32)
            prompts = Prompts.single_points(points, source="CoarseCAMPeaks", source_names=names)
            writer.add(record["image_id"], prompts, size)
    return PromptSet.open(path)


def test_each_image_gets_its_own_prompts_and_a_damaged_one_keeps_its_place(
    tmp_path: Path,
) -> None:
    method, progress = OneBox(), []
    prompts = _prompt_set(tmp_path / "prompts")
    summary = _run(tmp_path / "p", prompts, method, on_progress=progress.append)
    store = ProposalStore.open(tmp_path / "p")
    assert store.image_ids == ["b", "broken", "a"] and store.check() == []
    assert [store[name].boxes.tolist() for name in store.image_ids] == [
        [[2, 3, 30, 20]],
        [],
        [[4, 3, 30, 20]],
    ]
    assert method.grids == [{"points_per_side": 4}] * 2
    assert summary.counts() == {
        "images": 3,
        "proposals": 2,
        "proposals_Grid": 0,
        "proposals_CoarseCAMPeaks": 2,
        "skipped": [{"image_id": "broken", "reason": "broken.jpg is truncated"}],
    }
    assert progress == [1, 1, 1]


def test_a_first_image_that_is_damaged_does_not_change_what_is_stored(tmp_path: Path) -> None:
    RECORDS.insert(0, RECORDS.pop(1))
    try:
        _run(tmp_path / "p", None, OneBox())
    finally:
        RECORDS.insert(1, RECORDS.pop(0))
    store = ProposalStore.open(tmp_path / "p")
    assert store.image_ids == ["broken", "b", "a"]
    assert store["a"].scores is not None and store["a"].scores.tolist() == [0.5]


def test_wrong_sizes_and_missing_prompts_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"image b.jpg .* its prompts are of \(24, 33\)"):
        _run(tmp_path / "p", _prompt_set(tmp_path / "wide", (24, 33)), OneBox())
    prompts = _prompt_set(tmp_path / "prompts")
    monkeypatch.setitem(RECORDS[0], "width", 31)
    with pytest.raises(ValueError, match="image b.jpg is 24 x 32 .* says 24 x 31"):
        _run(tmp_path / "p", prompts, OneBox())
    monkeypatch.setitem(RECORDS[0], "width", 32)
    monkeypatch.setitem(RECORDS[0], "image_id", "other")
    with pytest.raises(KeyError, match="other"):
        _run(tmp_path / "p", prompts, OneBox())
    assert not (tmp_path / "p").exists()


def test_selective_search_finds_the_drawn_objects_in_the_same_order_every_time() -> None:
    method = SelectiveSearch()
    first = method(_drawn(), None, None)
    x, y, radius = DISC
    assert _best_iou(first.boxes, (x - radius, y - radius, x + radius + 1, y + radius + 1)) > 0.85
    assert _best_iou(first.boxes, (100, 30, 141, 101)) > 0.85
    assert (first.boxes[:, 2] <= 160).all() and (first.boxes[:, 3] <= 120).all()
    assert first.source_names == ("SelectiveSearch",) and first.scores is None
    np.testing.assert_array_equal(first.boxes, SelectiveSearch()(_drawn(), None, None).boxes)
    few = SelectiveSearch(max_boxes=5)(_drawn(), None, None)
    np.testing.assert_array_equal(few.boxes, first.boxes[:5])


def test_selective_search_of_one_color_is_no_error() -> None:
    boxes = SelectiveSearch()(np.zeros((20, 30, 3), np.uint8), None, None).boxes
    assert boxes.shape[1:] == (4,)


def test_an_opencv_without_contrib_modules_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(ImportError, match="pip install opencv-contrib-python-headless"):
        SelectiveSearch()


@pytest.fixture
def real_cfg(mobile_sam: Path) -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.WEAKSAM.SAM.ARCH = "vit_t"
    cfg.WEAKSAM.SAM.WEIGHTS = str(mobile_sam)
    cfg.WEAKSAM.SAM.INPUT_SIZE = 512
    cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE = 3
    return cfg


@pytest.mark.assets
def test_real_sam_boxes_the_drawn_objects(real_cfg: CfgNode) -> None:
    x, y, radius = DISC
    names = ("Grid", "CoarseCAMPeaks")
    peak = Prompts.single_points(
        np.array([[x, y]], np.float32), source="CoarseCAMPeaks", source_names=names
    )
    proposals = build_proposal_method(real_cfg)(_drawn(), peak, {"points_per_side": 3})
    coarse = proposals.boxes[proposals.sources == 1]
    disc = (x - radius, y - radius, x + radius + 1, y + radius + 1)
    assert _best_iou(proposals.boxes, disc) > 0.85
    assert len(coarse) <= 2
    assert (proposals.scores[proposals.sources == 0] > 0.3).all()
