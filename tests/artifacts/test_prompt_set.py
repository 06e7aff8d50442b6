"""Prompts and PromptSet: select, join, round trip, validation, damage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ArtifactError, Prompts, PromptSet, PromptSetWriter

SOURCES = ("coarse", "fine", "cross")
SIZE = (40, 60)


def random_prompts(rng: np.random.Generator, lengths: list[int], **change: Any) -> Prompts:
    p, q = len(lengths), sum(lengths)
    fields: dict[str, Any] = {
        "points": rng.uniform(0, 40, (q, 2)),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "scores": rng.random(p),
        "classes": rng.integers(-1, 3, p),
        "sources": rng.integers(0, 3, p),
        "source_names": SOURCES,
        "heads": rng.integers(-1, 6, p),
        "blocks": rng.integers(1, 12, p),
    }
    return Prompts(**{**fields, **change})


def rows_of(prompts: Prompts) -> list[tuple[Any, ...]]:
    """Each prompt as plain values, the slow and obvious way."""
    rows = []
    for p in range(len(prompts)):
        points = prompts.points[prompts.offsets[p] : prompts.offsets[p + 1]].tolist()
        box = None
        if prompts.boxes is not None and not np.isnan(prompts.boxes[p]).all():
            box = prompts.boxes[p].tolist()
        columns = ("scores", "classes", "sources", "heads", "blocks")
        rows.append((points, box, *(getattr(prompts, name)[p].item() for name in columns)))
    return rows


def test_missing_columns_are_filled_and_types_are_set() -> None:
    prompts = Prompts([[1, 2]], [0, 1], [1], [-1], [0], SOURCES)
    assert prompts.points.dtype == np.float32 and prompts.offsets.dtype == np.int64
    assert prompts.classes.dtype == np.int32 and prompts.sources.dtype == np.uint8
    assert prompts.heads.dtype == np.int16 and prompts.heads.tolist() == [-1]
    assert prompts.blocks.tolist() == [-1] and prompts.boxes is None and len(prompts) == 1


def test_select_takes_joint_prompts_in_the_given_order() -> None:
    prompts = random_prompts(np.random.default_rng(0), [1, 3, 0, 2, 1])
    rows = rows_of(prompts)
    assert rows_of(prompts.select([3, 1, 3, 2])) == [rows[i] for i in (3, 1, 3, 2)]
    mask = np.array([True, False, False, True, True])
    assert rows_of(prompts.select(mask)) == [rows[i] for i in (0, 3, 4)]
    assert len(prompts.select(np.zeros(0, np.int64))) == 0


def test_concatenate_joins_and_fills_boxes() -> None:
    rng = np.random.default_rng(1)
    first, empty = random_prompts(rng, [2, 1]), random_prompts(rng, [])
    boxes = random_prompts(rng, [0], boxes=[[1, 2, 3, 4]])
    joined = Prompts.concatenate([first, empty, boxes])
    assert rows_of(joined) == rows_of(first) + rows_of(boxes)
    assert np.isnan(joined.boxes[:2]).all() and joined.boxes[2].tolist() == [1, 2, 3, 4]
    assert Prompts.concatenate([first, empty]).boxes is None
    assert len(Prompts.concatenate([empty, empty])) == 0


def test_concatenate_refuses_other_sources_and_nothing() -> None:
    rng = np.random.default_rng(1)
    other = random_prompts(rng, [1], source_names=("grid", "coarse", "fine"))
    with pytest.raises(ValueError, match="source_names differ"):
        Prompts.concatenate([random_prompts(rng, [1]), other])
    with pytest.raises(ValueError, match="empty list"):
        Prompts.concatenate([])


def test_single_points_fills_the_defaults() -> None:
    prompts = Prompts.single_points([[1, 2], [3, 4]], source="fine", source_names=SOURCES)
    assert prompts.offsets.tolist() == [0, 1, 2] and prompts.scores.tolist() == [1, 1]
    assert prompts.classes.tolist() == [-1, -1] and prompts.sources.tolist() == [1, 1]
    empty = Prompts.single_points(np.zeros((0, 2)), source="fine", source_names=SOURCES)
    assert len(empty) == 0 and empty.points.shape == (0, 2)
    with pytest.raises(ValueError, match="'grid' is not one of"):
        Prompts.single_points([[1, 2]], source="grid", source_names=SOURCES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": np.zeros((2, 3))}, r"shape \(Q, 2\), got \(2, 3\)"),
        ({"offsets": [0, 1]}, "offsets must run from 0 to 2|must have shape"),
        ({"offsets": [0, 3, 2]}, "must not fall"),
        ({"scores": [1.0]}, r"scores must have shape \(2,\)"),
        ({"sources": [0, 3]}, "sources hold 3"),
        ({"sources": [0, 256]}, "sources hold 256"),
        ({"classes": [0, 0.5]}, "classes hold 0.5"),
        ({"boxes": [[0, 0, 1, 1]]}, r"boxes must have shape \(2, 4\)"),
    ],
)
def test_wrong_field_names_itself(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        random_prompts(np.random.default_rng(0), [1, 1], **change)


def test_round_trip_where_boxes_start_late(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    items = {
        "a": random_prompts(rng, [1, 3]),
        "b": random_prompts(rng, []),
        "c": random_prompts(rng, [0, 2], boxes=[[1, 2, 3, 4], [np.nan] * 4]),
        "d": random_prompts(rng, [1]),
    }
    grid = {"points_per_side": 32}
    path = tmp_path / "prompts"
    with PromptSetWriter(path, source_names=SOURCES, grid=grid, class_names="abc") as writer:
        for image_id, item in items.items():
            writer.add(image_id, item, SIZE)
    prompts = PromptSet.open(path)
    assert prompts.image_ids == list("abcd") and prompts.grid == grid
    assert prompts.source_names == SOURCES and prompts.image_size("c") == SIZE
    for image_id, item in items.items():
        assert rows_of(prompts[image_id]) == rows_of(item)
    assert np.load(path / "boxes.npy").shape == (5, 4)
    assert np.load(path / "prompt_offsets.npy").tolist() == [0, 1, 4, 4, 6, 7]


def test_set_without_boxes_has_no_box_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    with PromptSetWriter(path, source_names=SOURCES, grid=None) as writer:
        writer.add("a", random_prompts(np.random.default_rng(0), [1]), SIZE)
    assert not (path / "boxes.npy").exists()
    assert PromptSet.open(path)["a"].boxes is None and PromptSet.open(path).grid is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": [[1, 1], [60, 1]]}, r"point 1 of image 'x' is \[60.0, 1.0\]"),
        ({"points": [[1, -0.1], [6, 1]]}, "point 0 of image 'x'"),
        ({"points": [[1, np.nan], [6, 1]]}, "point 0 of image 'x' is .*nan"),
        ({"classes": [0, 3]}, "classes of image 'x' run from 0 to 3"),
        ({"classes": [0, -2]}, "classes of image 'x' run from -2"),
        ({"scores": [0, np.nan]}, "score 1 of image 'x' is nan"),
        ({"source_names": ("a", "b", "c")}, "image 'x' have source_names"),
        ({"boxes": [[np.nan] * 4, [1, 1, np.nan, 2]]}, "box 1 of image 'x'"),
        ({"boxes": [[np.nan] * 4, [1, 1, 61, 2]]}, "box 1 of image 'x'"),
        ({"points": [[1, 1]], "offsets": [0, 1, 1]}, "prompt 1 of image 'x' has neither"),
    ],
)
def test_wrong_prompt_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "prompts"
    prompts = random_prompts(np.random.default_rng(0), [1, 1], **change)
    with PromptSetWriter(path, source_names=SOURCES, grid=None, class_names="abc") as writer:
        with pytest.raises(ValueError, match=words):
            writer.add("x", prompts, SIZE)
        writer.add("x", random_prompts(np.random.default_rng(0), [1]), SIZE)
    assert len(PromptSet.open(path)["x"]) == 1


@pytest.mark.parametrize(
    "name", ["points", "prompt_offsets", "offsets", "scores", "heads", "boxes"]
)
def test_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "prompts"
    with PromptSetWriter(path, source_names=SOURCES, grid=None) as writer:
        prompts = random_prompts(np.random.default_rng(0), [2], boxes=[[0, 0, 1, 1]])
        writer.add("a", prompts, SIZE)
    file = path / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=f"{name}.npy"):
        PromptSet.open(path)


def test_inconsistent_prompt_offsets_name_the_file_or_the_image(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    with PromptSetWriter(path, source_names=SOURCES, grid=None) as writer:
        writer.add("a", random_prompts(np.random.default_rng(0), [2, 1]), SIZE)
    np.save(path / "prompt_offsets.npy", np.array([0, 2, 4]))
    with pytest.raises(ArtifactError, match="prompt_offsets.npy runs from 0 to 4"):
        PromptSet.open(path)
    np.save(path / "prompt_offsets.npy", np.array([0, 5, 3]))
    with pytest.raises(ArtifactError, match="image 'a'.*must not fall"):
        PromptSet.open(path)["a"]
