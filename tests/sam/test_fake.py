"""The stand-in for SAM, and building a backend from a config."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.sam import FakeSam, SegmentAnything, build_sam_backend

ALL = frozenset({"boxes", "logits", "masks"})


def make_cfg(**keys: Any) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    for name, value in keys.items():
        cfg.WEAKSAM.SAM[name] = value
    return cfg


def test_points_give_three_nested_discs(make: Any) -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    prompts = make([1, 1, 3], (80, 100))
    prompts.points[0] = (50, 40)
    backend = FakeSam(radius=0.1, prompts_per_batch=2)
    chunks = list(backend.decode(backend.encode(image), prompts, want=ALL))
    assert [c.start for c in chunks] == [0, 2]
    assert chunks[0].boxes[0].tolist() == [[45, 35, 55, 45], [40, 30, 60, 50], [30, 20, 70, 60]]
    for chunk in chunks:
        assert chunk.masks is not None
        small, middle, large = chunk.masks.unbind(1)
        assert not (small & ~middle).any() and not (middle & ~large).any()
        assert (middle.sum((1, 2)) < large.sum((1, 2))).all()
    joint = chunks[1].masks
    x, y = prompts.points[2:].astype(int).T
    assert joint is not None and joint[0, 1, y, x].all()


def test_boxes_give_boxes_and_one_mask_if_asked(make: Any) -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    prompts = make([0, 1], (80, 100), {0: [20, 20, 60, 40]})
    backend = FakeSam()
    chunk = next(backend.decode(backend.encode(image), prompts))
    assert chunk.boxes[0].tolist() == [[30, 25, 50, 35], [20, 20, 60, 40], [0, 10, 80, 50]]
    assert chunk.masks is None and chunk.logits is None
    single = next(backend.decode(backend.encode(image), prompts, multimask=False))
    assert single.boxes.shape == (2, 1, 4)
    assert torch.equal(single.boxes, chunk.boxes[:, 1:2])


def test_wrong_requests_name_themselves(make: Any) -> None:
    backend = FakeSam()
    embedding = backend.encode(np.zeros((8, 8, 3), np.uint8))
    assert list(backend.decode(embedding, make([], (8, 8)))) == []
    with pytest.raises(ValueError, match="prompt 0 has neither"):
        list(backend.decode(embedding, make([0], (8, 8))))
    with pytest.raises(ValueError, match="'segments'"):
        list(backend.decode(embedding, make([1], (8, 8)), want=frozenset({"segments"})))
    with pytest.raises(ValueError, match="uint8"):
        backend.encode(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="radius"):
        FakeSam(radius=0)


def test_cfg_chooses_the_backend() -> None:
    backend = build_sam_backend(make_cfg(BACKEND="FakeSam", POINTS_PER_BATCH=3))
    assert isinstance(backend, FakeSam)
    with pytest.raises(KeyError, match="NoSuchBackend"):
        build_sam_backend(make_cfg(BACKEND="NoSuchBackend"))


@pytest.mark.assets
def test_cfg_and_keywords_build_the_same_backend(
    mobile_sam: Path, model: Any, image: np.ndarray, make: Any
) -> None:
    cfg = make_cfg(ARCH="vit_t", WEIGHTS=str(mobile_sam), INPUT_SIZE=256, POINTS_PER_BATCH=2)
    cfg.MODEL.DEVICE = "auto" if not torch.cuda.is_available() else "cpu"
    built = build_sam_backend(cfg)
    given = SegmentAnything(model=model, prompts_per_batch=2)
    prompts = make([1, 1, 1], image.shape[:2])
    pairs = [list(b.decode(b.encode(image), prompts)) for b in (built, given)]
    assert [len(chunk.boxes) for chunk in pairs[0]] == [2, 1]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes, equal_nan=True)


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segment_anything", None)
    with pytest.raises(ImportError, match="pip install segment-anything"):
        build_sam_backend(make_cfg(ARCH="vit_t"))
