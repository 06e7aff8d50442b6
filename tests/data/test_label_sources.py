"""The loop that labels a data set, and the way of its images into detectron2's own mapper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from PIL import Image

from weaksam_d2.artifacts import LabelSpace, SemSegLabels, SemSegLabelsWriter
from weaksam_d2.data import DamagedImageError, LabelResult, generate_labels, required_input

SPACE = LabelSpace("birds", ["duck", "swan"])
SIZE = (6, 8)


class Halves:
    """The left half is the first tag, the right one the last."""

    system, base, supervision = "CAM", "paper", "image_labels"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        self.calls.append(record["image_id"])
        label = np.zeros(SIZE, np.uint8)
        tags = record["image_labels"]
        if not tags:
            return LabelResult(label, ("no_tags",))
        label[:, :4], label[:, 4:] = tags[0] + 1, tags[-1] + 1
        return LabelResult(label, ("lost:1", "lost:2"))


def record(image_id: str, tags: list[int]) -> dict[str, Any]:
    return {"image_id": image_id, "height": 6, "width": 8, "image_labels": tags}


RECORDS = [record("a", [0, 1]), record("b", []), record("c", [1])]


def writer(path: Path, **options: Any) -> SemSegLabelsWriter:
    facts = {"system": "CAM", "base": "paper", "supervision": "image_labels"}
    return SemSegLabelsWriter(path, space=SPACE, **{**facts, **options})


def test_each_record_is_labeled_and_counted(tmp_path: Path) -> None:
    seen: list[int] = []
    with writer(tmp_path / "out") as opened:
        summary = generate_labels(RECORDS, Halves(), writer=opened, on_progress=seen.append)
    assert seen == [1, 1, 1]
    assert summary.counts() == {
        "images": 3,
        "pixels": 3 * 48,
        "ignored_pixels": 0,
        "flagged_lost": 2,  # images, not flags
        "flagged_no_tags": 1,
        "skipped": [],
    }
    labels = SemSegLabels.open(tmp_path / "out")
    assert labels.entry("a")["pixels"] == {"1": 24, "2": 24}
    assert [labels.entry(i)["tags"] for i in "abc"] == [[0, 1], [], [1]]


def test_images_of_an_interrupted_run_are_not_labeled_again(tmp_path: Path) -> None:
    first = Halves()
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "out", resume="k") as opened:
        generate_labels(RECORDS[:2], first, writer=opened)
        raise KeyboardInterrupt
    second = Halves()
    with writer(tmp_path / "out", resume="k") as opened:
        summary = generate_labels(RECORDS, second, writer=opened)
    assert (first.calls, second.calls) == (["a", "b"], ["c"])
    with writer(tmp_path / "whole") as opened:
        assert generate_labels(RECORDS, Halves(), writer=opened).counts() == summary.counts()
    for path in (tmp_path / "whole").rglob("*.*"):
        again = tmp_path / "out" / path.relative_to(tmp_path / "whole")
        assert again.read_bytes() == path.read_bytes()


class Gives:
    system, base = "BoxSAM", "custom"

    def __init__(self, result: Any, supervision: str = "image_labels") -> None:
        self.result, self.supervision = result, supervision

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_labels_outside_the_tags_are_an_error(tmp_path: Path) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[0, 0], label[0, 1] = 2, 255
    for source, message in (
        (Gives(LabelResult(label)), r"image 'a' holds classes \[1\], its tags are \[0\]"),
        (Gives(LabelResult(label, tags=(0,))), r"holds classes \[1\], its tags are \[0\]"),
        (Gives(LabelResult(label[:3])), r"label of image 'a' is \(3, 8\), its image is \(6, 8\)"),
    ):
        with pytest.raises(ValueError, match=message), writer(tmp_path / "out") as opened:
            generate_labels([record("a", [0])], source, writer=opened)
        assert not (tmp_path / "out").exists()
    # Tags that the source found itself; and without supervision those of the record do not count.
    for source in (Gives(LabelResult(label, tags=(1, 0))), Gives(LabelResult(label), "none")):
        with writer(tmp_path / "out", overwrite=True) as opened:
            generate_labels([record("a", [0])], source, writer=opened)
        expected = [0, 1] if source.supervision != "none" else [1]
        assert SemSegLabels.open(tmp_path / "out").entry("a")["tags"] == expected


def test_a_damaged_image_is_ignored_as_a_whole_and_told(tmp_path: Path) -> None:
    with writer(tmp_path / "out") as opened:
        source = Gives(DamagedImageError("a.jpg is cut off"))
        summary = generate_labels([record("a", [0])], source, writer=opened)
    assert summary.counts()["skipped"] == [{"image_id": "a", "reason": "a.jpg is cut off"}]
    assert summary.counts()["ignored_pixels"] == 48 and summary.counts()["flagged_damaged"] == 1
    labels = SemSegLabels.open(tmp_path / "out")
    assert (labels["a"] == 255).all() and labels.entry("a")["flags"] == ["damaged"]


def test_an_input_that_the_command_line_does_not_name_is_asked_for() -> None:
    assert required_input({"masks": Path("m")}, "masks", "a store") == Path("m")
    with pytest.raises(ValueError, match="--masks is missing: give a store of SAM's masks"):
        required_input({}, "masks", "a store of SAM's masks")


def test_detectron2s_own_mapper_reads_the_same_ids(tmp_path: Path) -> None:
    """It opens the file in mode L, which would turn a palette into luminance."""
    label = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (40, 50))
    with writer(tmp_path / "out") as opened:
        opened.add("a", label)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    path = SemSegLabels.open(tmp_path / "out").path("a")
    item = mapper(
        {"file_name": str(tmp_path / "a.png"), "sem_seg_file_name": str(path),
         "height": 40, "width": 50}
    )  # fmt: skip
    assert np.array_equal(item["sem_seg"].numpy(), label)
