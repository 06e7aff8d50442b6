"""Folders of label images: round trips, refusals, kills, shards, and those of other programs."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weaksam_d2.artifacts import (
    ArtifactError,
    ArtifactMismatchError,
    ForeignLabels,
    LabelSpace,
    RunManifest,
    SemSegLabels,
    SemSegLabelsWriter,
    label_file_name,
    list_outputs,
    merge_sem_seg_labels,
    open_label_folder,
    write_label_png,
)

SPACE = LabelSpace("birds", ["duck", "swan"])
FACTS = {"space": SPACE, "system": "CAM", "base": "paper", "supervision": "image_labels"}


def label(seed: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), size)


def write(path: Path, image_ids: list[str], **options: object) -> SemSegLabels:
    with SemSegLabelsWriter(path, **{**FACTS, **options}) as writer:  # type: ignore[arg-type]
        for image_id in image_ids:
            writer.add(image_id, label(int(image_id)), tags=(1, 0), flags=("no_masks",))
    return SemSegLabels.open(path)


def files(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in sorted(found.items()) if name != "manifest.json"}


def test_labels_come_back_with_what_is_known_of_them(tmp_path: Path) -> None:
    labels = write(tmp_path / "out", ["3", "1"])
    assert labels.image_ids == ["3", "1"] and len(labels) == 2 and "1" in labels
    assert (labels.space, labels.system, labels.base) == (SPACE, "CAM", "paper")
    assert labels.supervision == "image_labels"
    for image_id in labels.image_ids:
        expected = label(int(image_id))
        assert np.array_equal(labels[image_id], expected)
        entry = labels.entry(image_id)
        assert entry["size"] == [6, 8] and labels.image_size(image_id) == (6, 8)
        assert entry["tags"] == [0, 1] and entry["flags"] == ["no_masks"]
        assert sum(entry["pixels"].values()) == 6 * 8
        assert entry["pixels"] == {
            str(v): int((expected == v).sum()) for v in (0, 1, 2, 255) if (expected == v).any()
        }
        assert labels.path(image_id) == tmp_path.absolute() / f"out/labels/{image_id}.png"
    index = json.loads((tmp_path / "out/labels.json").read_text())
    assert index["format"] == "weaksam_d2.sem_seg_labels/1"
    assert index["label_space"] == {
        "name": "birds", "classes": ["background", "duck", "swan"], "ignore": 255
    }  # fmt: skip
    with pytest.raises(KeyError, match="image '9' is not in"):
        labels["9"]


def test_no_images_are_an_artifact_too(tmp_path: Path) -> None:
    assert write(tmp_path / "out", []).image_ids == []


@pytest.mark.parametrize("image_id", ["a/b", "../b", ".b", "a%2Fb", "a:b", "b\\c", "ü b"])
def test_any_id_names_one_file_inside_the_folder(tmp_path: Path, image_id: str) -> None:
    name = label_file_name(image_id)
    assert "/" not in name and not name.startswith(".")
    with SemSegLabelsWriter(tmp_path / "out", **FACTS) as writer:  # type: ignore[arg-type]
        writer.add(image_id, label(0))
        writer.add("a_b", label(1))
    labels = SemSegLabels.open(tmp_path / "out")
    assert np.array_equal(labels[image_id], label(0)) and np.array_equal(labels["a_b"], label(1))
    foreign = ForeignLabels(tmp_path / "out/labels", SPACE)
    assert set(foreign.image_ids) == {image_id, "a_b"}
    assert len({label_file_name(i) for i in ("a/b", "a%2Fb", "a_b", "a\\b")}) == 4
    with pytest.raises(ValueError, match="an image id is empty"):
        label_file_name("")


def test_what_is_wrong_is_refused_by_name_and_nothing_is_left(tmp_path: Path) -> None:
    good = label(0)
    wrong: list[tuple[str, np.ndarray, dict[str, object], str]] = [
        ("b", good.astype(np.int64), {}, r"image 'b' must be uint8 \(H, W\), got int64"),
        ("b", good[None], {}, r"image 'b' must be uint8"),
        ("b", np.full((2, 2), 3, np.uint8), {}, "image 'b' holds 3, expected 0 to 2 or 255"),
        ("b", good, {"tags": (2,)}, r"image 'b' has tags \[2\], expected classes from 0 to 1"),
        ("a", good, {}, "image 'a' was added .* twice"),
        (5, good, {}, "image id must be a str, got 5"),  # type: ignore[list-item]
    ]
    for image_id, array, options, message in wrong:
        with (
            pytest.raises(ValueError, match=message),
            SemSegLabelsWriter(tmp_path / "out", **FACTS) as writer,  # type: ignore[arg-type]
        ):
            writer.add("a", good)
            writer.add(image_id, array, **options)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="base is 'best', expected one of"):
        SemSegLabelsWriter(tmp_path / "out", **{**FACTS, "base": "best"})  # type: ignore[arg-type]
    other = LabelSpace("birds", ["duck", "swan"], ignore=254)
    with pytest.raises(ValueError, match="label images take ignore 255"):
        SemSegLabelsWriter(tmp_path / "out", **{**FACTS, "space": other})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="is not open"):
        SemSegLabelsWriter(tmp_path / "out", **FACTS).add("a", good)  # type: ignore[arg-type]


def test_an_artifact_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "out", ["1"])
    with pytest.raises(FileExistsError, match="exists already"):
        write(tmp_path / "out", ["2"])
    with pytest.raises(FileExistsError, match="exists already"):
        write(tmp_path / "out", ["2"], resume="key")
    assert write(tmp_path / "out", ["2"], overwrite=True).image_ids == ["2"]


def test_shards_joined_are_the_bytes_of_one_writer(tmp_path: Path) -> None:
    ids = [str(i) for i in range(7)]
    write(tmp_path / "whole", ids)
    for name, cuts in (("two", [0, 4, 7]), ("many", list(range(8)))):
        parts = []
        for start, stop in zip(cuts, cuts[1:], strict=False):
            parts.append(tmp_path / f"{name}-{start}")
            write(parts[-1], ids[start:stop])
        merge_sem_seg_labels(parts, tmp_path / name)
        assert files(tmp_path / name) == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 8


def test_joining_adds_up_manifests_and_refuses_what_does_not_belong(tmp_path: Path) -> None:
    manifest = RunManifest(stage="labels", parts=2, counts={"images": 1})
    for part in ("0", "1"):
        with SemSegLabelsWriter(tmp_path / part, **FACTS) as writer:  # type: ignore[arg-type]
            writer.manifest = manifest
            writer.add(part, label(int(part)))
    merge_sem_seg_labels([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    written = RunManifest.read(tmp_path / "out")
    assert written.counts == {"images": 2}
    assert written.outputs == list_outputs(tmp_path / "out")
    assert [row["name"] for row in written.outputs] == [
        "labels.json",
        "labels/0.png",
        "labels/1.png",
    ]
    write(tmp_path / "sepl", ["2"], system="SEPL")
    with pytest.raises(ArtifactMismatchError, match="sepl is no part of the artifact"):
        merge_sem_seg_labels([tmp_path / "0", tmp_path / "sepl"], tmp_path / "bad")
    with pytest.raises(ArtifactMismatchError, match="image '0' of .* comes twice"):
        merge_sem_seg_labels([tmp_path / "0", tmp_path / "0"], tmp_path / "bad")
    with pytest.raises(ValueError, match="no parts to merge"):
        merge_sem_seg_labels([], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def in_child(work: object) -> int:
    """Run in a forked process; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def write_and_die(path: Path, resume: str) -> None:
    with SemSegLabelsWriter(path, **FACTS, resume=resume) as writer:  # type: ignore[arg-type]
        writer.add("0", label(0), tags=(0,), flags=("no_masks",))
        writer.add("1", label(1))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_no_artifact(tmp_path: Path) -> None:
    for resume in ("", "key"):
        path = tmp_path / f"out{resume}"
        assert os.WIFSIGNALED(
            in_child(lambda path=path, resume=resume: write_and_die(path, resume))
        )
        assert not path.exists()


def test_what_a_killed_writer_has_done_is_kept_by_the_next_one_of_the_same_key(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    in_child(lambda: write_and_die(path, "key"))
    (partial,) = tmp_path.glob(".out.partial-*")
    first = (partial / "labels/0.png").stat()
    (partial / "labels/1.png").unlink()  # as if killed between the entry and the image
    with open(partial / ".entries.jsonl", "a") as journal:
        journal.write('["2", {"file": "lab')  # cut off by the kill
    (partial / "labels/.2.tmp-1-ab.png").write_bytes(b"half")
    with SemSegLabelsWriter(path, **FACTS, resume="other") as other:  # type: ignore[arg-type]
        assert not other.keep("0")
        other.add("0", label(5))
    path.rename(tmp_path / "other")
    with SemSegLabelsWriter(path, **FACTS, resume="key") as writer:  # type: ignore[arg-type]
        assert writer.keep("0") and not writer.keep("1") and not writer.keep("2")
        with pytest.raises(ValueError, match="twice"):
            writer.keep("0")
        writer.add("1", label(1))
        writer.add("2", label(2))
    labels = SemSegLabels.open(path)
    assert labels.entry("0")["tags"] == [0] and labels.entry("0")["flags"] == ["no_masks"]
    assert labels.path("0").stat().st_mtime_ns == first.st_mtime_ns
    assert set(files(path)) == {"labels.json", "labels/0.png", "labels/1.png", "labels/2.png"}
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_two_writers_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with SemSegLabelsWriter(path, **FACTS, resume="key") as first:  # type: ignore[arg-type]
        first.add("0", label(0))
        with (
            pytest.raises(FileExistsError),
            SemSegLabelsWriter(path, **FACTS, resume="key") as second,  # type: ignore[arg-type]
        ):
            assert not second.keep("0")
            second.add("0", label(9))
            path.mkdir()  # a third one was faster than both
        path.rmdir()
    assert np.array_equal(SemSegLabels.open(path)["0"], label(0))
    assert os.listdir(tmp_path) == ["out"]


def test_a_writer_that_comes_too_late_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with (
        pytest.raises(FileExistsError),
        SemSegLabelsWriter(path, **FACTS, resume="key") as writer,  # type: ignore[arg-type]
    ):
        writer.add("0", label(0))
        write(path, ["1"])
    assert os.listdir(tmp_path) == ["out"] and SemSegLabels.open(path).image_ids == ["1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "weaksam_d2.sem_seg_labels/0"}, "has format 'weaksam_d2.sem_seg_labels/0'"),
        ({"label_space": {}}, "no valid label_space"),
        ({"images": [1]}, "lacks or garbles"),
        ({"images": {"1": {}}}, "the entry of image '1' is wrong"),
        ({"pixels": {"0": 47}}, "image '1' has 47 pixels .* expected 48 for 6 x 8"),
        ({"file": "../1.png"}, "in a file of the artifact"),
        ({"flags": [1]}, "flags of image '1' must be texts"),
    ],
)
def test_inconsistent_artifacts_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write(tmp_path / "out", ["1"])
    path = tmp_path / "out/labels.json"
    index = json.loads(path.read_text())
    ((key, value),) = change.items()
    (index["images"]["1"] if key in ("pixels", "file", "flags") else index)[key] = value
    path.write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=message):
        SemSegLabels.open(tmp_path / "out")


def test_a_label_image_of_another_size_is_named_when_it_is_read(tmp_path: Path) -> None:
    labels = write(tmp_path / "out", ["1"])
    write_label_png(labels.path("1"), label(1, (8, 6)))
    with pytest.raises(ArtifactError, match=r"1.png is 8 x 6 .* its image is 6 x 8"):
        labels["1"]
    with pytest.raises(ArtifactError, match="labels.json is missing"):
        SemSegLabels.open(tmp_path)


def test_a_folder_of_another_program_is_read_as_what_the_caller_says(tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    space = LabelSpace("two", ["duck", "swan"], dataset_ids=[3, 7])
    image = Image.fromarray(np.array([[0, 3], [7, 255]], np.uint8))
    image.putpalette([5] * 768)
    image.save(folder / "a.png")
    (folder / "notes.txt").write_text("left out")
    labels = open_label_folder(folder, space, encoding="category_ids")
    assert isinstance(labels, ForeignLabels) and labels.system == "foreign"
    assert labels.image_ids == ["a"] and len(labels) == 1 and "a" in labels
    assert labels["a"].tolist() == [[0, 1], [2, 255]] and labels.image_size("a") == (2, 2)
    assert labels.entry("a") == {
        "file": "a.png", "size": [2, 2], "pixels": {"0": 1, "1": 1, "2": 1, "255": 1}, "flags": []
    }  # fmt: skip
    with pytest.raises(ValueError, match="a.png holds the value 3, which is no 'labels' value"):
        open_label_folder(folder, space)["a"]
    with pytest.raises(ValueError, match="encoding is 'zero'"):
        open_label_folder(folder, space, encoding="zero")
    with pytest.raises(ValueError, match="say which label space"):
        open_label_folder(folder)
    with pytest.raises(ArtifactError, match="is no folder with label images"):
        open_label_folder(tmp_path / "none", space)
    with pytest.raises(KeyError, match="image 'b' is not in"):
        labels["b"]


def test_our_own_folder_must_have_the_asked_label_space(tmp_path: Path) -> None:
    write(tmp_path / "out", ["1"])
    assert isinstance(open_label_folder(tmp_path / "out", SPACE), SemSegLabels)
    assert isinstance(open_label_folder(tmp_path / "out"), SemSegLabels)
    with pytest.raises(ArtifactError, match="label 2 is 'swan' and not 'goose'"):
        open_label_folder(tmp_path / "out", LabelSpace("x", ["duck", "goose"]))
