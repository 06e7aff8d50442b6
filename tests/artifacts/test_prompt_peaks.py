"""Peaks before clustering: with their prompts through select, join, disk and damage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import (
    PEAK_DTYPE,
    ArtifactError,
    Prompts,
    PromptSet,
    PromptSetWriter,
    make_peaks,
)

SOURCES = ("coarse", "cross")
SIZE = (40, 60)


def peaks_of(*rows: tuple[float, float, int], **change: Any) -> np.ndarray:
    """Peaks (x, y, prompt); score, class, head and block follow from the place in the list."""
    n = len(rows)
    fields: dict[str, Any] = {
        "scores": np.linspace(0.9, 1, n),
        "classes": np.arange(n),
        "heads": np.arange(n) + 1,
        "blocks": np.arange(n) + 5,
        "prompts": [prompt for *_, prompt in rows],
    }
    return make_peaks([point[:2] for point in rows], **{**fields, **change})


def prompts_with(count: int, peaks: np.ndarray | None) -> Prompts:
    single = Prompts.single_points(
        np.arange(2 * count).reshape(count, 2), source="cross", source_names=SOURCES
    )
    return Prompts(**{**vars(single), "peaks": peaks})


def described(peaks: np.ndarray) -> list[tuple[Any, ...]]:
    """(x, y, class, head, block, prompt) of each peak."""
    names = ("x", "y", "class", "head", "block", "prompt")
    return [tuple(peak[name].item() for name in names) for peak in peaks]


def test_select_keeps_the_peaks_of_its_prompts_under_their_new_rows() -> None:
    prompts = prompts_with(3, peaks_of((1, 2, 0), (3, 4, 2), (5, 6, 2), (7, 8, 1)))
    chosen = prompts.select([2, 0])
    assert described(chosen.peaks) == [(1, 2, 0, 1, 5, 1), (3, 4, 1, 2, 6, 0), (5, 6, 2, 3, 7, 0)]
    assert [p[-1] for p in described(prompts.select([2, 2]).peaks)] == [0, 0]
    assert len(prompts.select(np.zeros(0, int)).peaks) == 0 and len(prompts.peaks) == 4
    assert prompts_with(3, None).select([1]).peaks is None


def test_joined_prompts_take_their_peaks_along() -> None:
    first, last = prompts_with(2, peaks_of((1, 2, 1))), prompts_with(3, peaks_of((3, 4, 0)))
    joined = Prompts.concatenate([first, prompts_with(4, None), last])
    assert [p[-1] for p in described(joined.peaks)] == [1, 6]
    assert first.peaks["prompt"].tolist() == [1] and last.peaks["prompt"].tolist() == [0]
    assert Prompts.concatenate([prompts_with(1, None)] * 2).peaks is None


def write(path: Path, items: dict[str, Prompts]) -> PromptSet:
    with PromptSetWriter(path, source_names=SOURCES, grid=None) as writer:
        for image_id, prompts in items.items():
            writer.add(image_id, prompts, SIZE)
    return PromptSet.open(path)


def test_each_image_gets_its_peaks_back(tmp_path: Path) -> None:
    items = {
        "a": prompts_with(2, None),
        "b": prompts_with(2, peaks_of((1, 2, 1), (3, 4, 0), (5, 6, 1))),
        "c": prompts_with(0, None),
        "d": prompts_with(1, peaks_of((7, 8, 0))),
    }
    prompts = write(tmp_path / "p", items)
    assert [len(prompts.peaks(image_id)) for image_id in "abcd"] == [0, 3, 0, 1]
    for image_id in "bd":
        assert described(prompts[image_id].peaks) == described(items[image_id].peaks)
    assert prompts.peaks("d")["score"].tolist() == [np.float32(0.9)]
    stored = np.load(tmp_path / "p" / "peaks.npy", allow_pickle=False)
    assert stored.dtype == PEAK_DTYPE and prompts.index["has"] == ["peaks"]
    assert stored["image"].tolist() == [1, 1, 1, 3] and stored["prompt"].tolist() == [3, 2, 3, 4]
    with pytest.raises(KeyError, match="nope"):
        prompts.peaks("nope")


def test_a_set_of_unclustered_prompts_has_no_peaks(tmp_path: Path) -> None:
    prompts = write(tmp_path / "p", {"a": prompts_with(2, None)})
    assert prompts.peaks("a") is None and prompts["a"].peaks is None
    assert not (tmp_path / "p" / "peaks.npy").exists()


def test_peaks_of_no_prompt_of_another_dtype_and_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompts 0 to 2, expected rows of the 2 prompts"):
        prompts_with(2, peaks_of((1, 2, 0), (1, 2, 2)))
    with pytest.raises(ValueError, match="prompts -1 to -1"):
        prompts_with(2, peaks_of((1, 2, -1)))
    with pytest.raises(ValueError, match="got float64 of shape"):
        prompts_with(1, np.zeros(3))
    with pytest.raises(ValueError, match=r"peak 1 of image 'a' is \[60.0, 2.0\]"):
        write(tmp_path / "p", {"a": prompts_with(1, peaks_of((1, 2, 0), (60, 2, 0)))})


def test_damaged_peaks_are_named(tmp_path: Path) -> None:
    peaks = peaks_of((1, 2, 0), (3, 4, 0))
    items = {"a": prompts_with(1, peaks), "b": prompts_with(1, peaks)}
    write(tmp_path / "p", items)
    file = tmp_path / "p" / "peaks.npy"
    stored = np.load(file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"peaks\.npy has"):
        PromptSet.open(tmp_path / "p")
    np.save(file, stored[[2, 0, 1, 3]])  # of images b, a, a, b
    with pytest.raises(ArtifactError, match=r"peaks\.npy is not sorted"):
        PromptSet.open(tmp_path / "p").peaks("a")
    stored["prompt"][1] = 9
    np.save(file, stored)
    with pytest.raises(ArtifactError, match="image 'a'.*prompts 0 to 9"):
        PromptSet.open(tmp_path / "p")["a"]
    file.unlink()
    with pytest.raises(ArtifactError, match=r"peaks\.npy is missing"):
        PromptSet.open(tmp_path / "p")
