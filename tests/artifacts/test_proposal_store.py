"""ProposalStore: round trip, validation, damage, workers, speed."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weaksam_d2.artifacts
from weaksam_d2.artifacts import ArtifactError, ProposalStore, ProposalStoreWriter

REPO = Path(weaksam_d2.artifacts.__file__).parents[2]
SIZE = (40, 60)
BOX = [1.0, 2.0, 30.5, 40.0]


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    start = rng.uniform(0, 30, (n, 2))
    return np.concatenate([start, start + rng.uniform(0.5, 10, (n, 2))], 1).astype(np.float32)


def write_store(path: Path, counts: tuple[int, ...] = (3, 0, 5), **options: Any) -> Path:
    rng = np.random.default_rng(0)
    with ProposalStoreWriter(path, source_names=("grid", "fine"), **options) as writer:
        for i, n in enumerate(counts):
            writer.add(
                f"im{i}",
                random_boxes(rng, n),
                scores=rng.random(n),
                stability=np.full(n, np.nan),
                sources=rng.integers(0, 2, n),
                masks=[bytes([65 + i]) * (j + 1) for j in range(n)],
                image_size=SIZE,
            )
    return path


def folder_bytes(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_round_trip_keeps_every_field_and_the_empty_image(tmp_path: Path) -> None:
    store = ProposalStore.open(write_store(tmp_path / "p"))
    assert store.image_ids == ["im0", "im1", "im2"] and len(store) == 3
    assert "im1" in store and "im9" not in store
    rng = np.random.default_rng(0)
    for i, n in enumerate((3, 0, 5)):
        item = store[f"im{i}"]
        boxes, scores = random_boxes(rng, n), rng.random(n)
        rng_sources = rng.integers(0, 2, n)
        assert len(item) == n and item.image_size == SIZE
        np.testing.assert_array_equal(item.boxes, boxes)
        assert item.boxes.dtype == np.float32 and item.boxes.shape == (n, 4)
        np.testing.assert_array_equal(item.scores, scores.astype(np.float32))
        assert item.stability is not None and np.isnan(item.stability).all()
        np.testing.assert_array_equal(item.sources, rng_sources)
        assert item.source_names == ("grid", "fine")
        assert item.masks == tuple(bytes([65 + i]) * (j + 1) for j in range(n))
    assert store.counts().tolist() == [3, 0, 5]
    assert store.check() == []
    assert store.read("im2", masks=False).masks is None


def test_files_are_plain_numpy_and_the_index_names_the_format(tmp_path: Path) -> None:
    path = write_store(tmp_path / "p")
    assert np.load(path / "boxes.npy", allow_pickle=False).shape == (8, 4)
    assert np.load(path / "offsets.npy", mmap_mode="r").tolist() == [0, 3, 3, 8]
    assert np.load(path / "sizes.npy").dtype == np.int32
    assert np.load(path / "mask_offsets.npy")[-1] == (path / "masks.bin").stat().st_size
    index = json.loads((path / "index.json").read_text())
    assert index["format"] == "weaksam_d2.proposals/1"
    assert index["has"] == ["masks", "scores", "sources", "stability"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = write_store(tmp_path / "a"), write_store(tmp_path / "b")
    assert folder_bytes(first) == folder_bytes(second)


def test_arrays_may_be_changed_without_touching_the_store(tmp_path: Path) -> None:
    store = ProposalStore.open(write_store(tmp_path / "p"))
    store["im0"].boxes[:] = 0
    assert store["im0"].boxes.any()


@pytest.mark.parametrize("counts", [(), (0,), (0, 0)])
def test_store_without_proposals_opens(tmp_path: Path, counts: tuple[int, ...]) -> None:
    store = ProposalStore.open(write_store(tmp_path / "p", counts))
    assert len(store) == len(counts)
    assert all(store[i].boxes.shape == (0, 4) for i in store.image_ids)
    assert store.check() == []


def test_optional_fields_are_settled_by_the_first_image_with_boxes(tmp_path: Path) -> None:
    with ProposalStoreWriter(tmp_path / "p") as writer:
        writer.add("a", [], image_size=SIZE)
        writer.add("b", [BOX], scores=[0.5], image_size=SIZE)
        with pytest.raises(ValueError, match=r"'c' has \[\].*before have \['scores'\]"):
            writer.add("c", [BOX], image_size=SIZE)
    store = ProposalStore.open(tmp_path / "p")
    assert store.image_ids == ["a", "b"] and store["a"].scores is not None
    assert store["b"].masks is None and store["b"].stability is None


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 2, 3, 4],
        [0, 0, np.inf, 4],
        [5, 2, 5, 4],
        [6, 2, 5, 4],
        [1, 4, 5, 4],
        [-1, 0, 5, 5],
        [0, -0.5, 5, 5],
        [0, 0, 60.001, 5],
        [0, 0, 5, 41],
    ],
)
def test_bad_box_is_refused_with_image_row_and_value(tmp_path: Path, box: list[float]) -> None:
    with ProposalStoreWriter(tmp_path / "p") as writer:
        with pytest.raises(ValueError, match="box 1 of image '000005' is") as error:
            writer.add("000005", [BOX, box], image_size=SIZE)
        assert str([float(np.float32(value)) for value in box]) in str(error.value)
        writer.add("000005", [BOX], image_size=SIZE)  # nothing of the bad one was kept
    assert len(ProposalStore.open(tmp_path / "p")["000005"]) == 1


def test_box_that_fills_the_image_is_legal(tmp_path: Path) -> None:
    with ProposalStoreWriter(tmp_path / "p") as writer:
        writer.add("a", [[0, 0, 60, 40]], image_size=SIZE)
    assert ProposalStore.open(tmp_path / "p").check() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": np.zeros((4, 17))}, r"shape \(n, 4\), got \(4, 17\)"),
        ({"boxes": np.zeros((0, 5))}, r"shape \(n, 4\), got \(0, 5\)"),
        ({"scores": [1.0, 2.0]}, r"scores of image 'x' must have shape \(1,\)"),
        ({"sources": [2]}, r"sources of image 'x' hold 2"),
        ({"sources": [-1]}, r"sources of image 'x' hold -1"),
        ({"masks": []}, "1 boxes but 0 masks"),
        ({"masks": ["text"]}, "mask 0 of image 'x'"),
        ({"masks": [b""]}, "mask 0 of image 'x'"),
        ({"image_size": (0, 5)}, r"image_size of image 'x'"),
        ({"image_id": 5}, "must be a str, got 5"),
        ({"image_id": "a"}, "'a' was added .* twice"),
    ],
)
def test_wrong_argument_names_itself(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"image_id": "x", "boxes": [BOX], "image_size": SIZE, **change}
    with ProposalStoreWriter(tmp_path / "p", source_names=("grid", "fine")) as writer:
        writer.add("a", [], image_size=SIZE)
        with pytest.raises(ValueError, match=words):
            writer.add(arguments.pop("image_id"), arguments.pop("boxes"), **arguments)
    assert ProposalStore.open(tmp_path / "p").image_ids == ["a"]


def test_error_in_the_block_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ProposalStoreWriter(tmp_path / "p") as writer:
        writer.add("a", [BOX], masks=[b"x"], image_size=SIZE)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_writer_outside_a_with_block_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="`with` block"):
        ProposalStoreWriter(tmp_path / "p").add("a", [BOX], image_size=SIZE)


def test_existing_store_needs_overwrite(tmp_path: Path) -> None:
    path = write_store(tmp_path / "p")
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_store(path)
    write_store(path, (1,), overwrite=True)
    assert len(ProposalStore.open(path)) == 1


def test_unknown_image_names_id_and_path(tmp_path: Path) -> None:
    store = ProposalStore.open(write_store(tmp_path / "p"))
    with pytest.raises(KeyError, match=r"'nope' is not in .*/p \(3 images\)"):
        store["nope"]


FILES = ["boxes", "offsets", "sizes", "scores", "stability", "sources", "mask_offsets"]


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in FILES), "masks.bin"])
@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "empty"])
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    file = write_store(tmp_path / "p") / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}[damage])
    with pytest.raises(ArtifactError, match=name):
        ProposalStore.open(tmp_path / "p")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("offsets", np.array([0, 4, 3, 8]), "falls from 4 to 3 at row 2"),
        ("offsets", np.array([1, 3, 3, 8]), "starts at 1"),
        ("offsets", np.array([0, 3, 3, 7]), "ends at 7, expected 8, the rows of boxes.npy"),
        ("offsets", np.array([0, 3, 8]), r"shape \(3,\), expected int64 of shape \(4,\)"),
        ("offsets", np.array([0, 3, 3, 8], np.int32), "holds int32"),
        ("boxes", np.zeros((8, 5), np.float32), r"expected float32 of shape \(n, 4\)"),
        ("boxes", np.asfortranarray(np.ones((8, 4), np.float32)), "expected float32"),
        ("scores", np.zeros(7, np.float32), r"shape \(7,\)"),
    ],
)
def test_inconsistent_array_is_named(
    tmp_path: Path, name: str, array: np.ndarray, words: str
) -> None:
    path = write_store(tmp_path / "p")
    np.save(path / f"{name}.npy", array)
    with pytest.raises(ArtifactError, match=words) as error:
        ProposalStore.open(path)
    assert f"{name}.npy" in str(error.value)


def edit_index(path: Path, **change: Any) -> None:
    index = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**index, **change}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "weaksam_d2.proposals/2"}, "proposals/2.*expected.*proposals/1"),
        ({"format": "weaksam_d2.cams/1"}, "cams/1"),
        ({"image_ids": ["im0", "im1", 2]}, "as strings"),
        ({"image_ids": ["im0", "im1", "im1"]}, "twice"),
        ({"has": ["smell"]}, "smell"),
    ],
)
def test_wrong_index_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    edit_index(write_store(tmp_path / "p"), **change)
    with pytest.raises(ArtifactError, match=words) as error:
        ProposalStore.open(tmp_path / "p")
    assert "index.json" in str(error.value)


def test_folder_that_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="index.json is missing"):
        ProposalStore.open(tmp_path)


def test_check_finds_bad_boxes_that_opening_does_not(tmp_path: Path) -> None:
    path = write_store(tmp_path / "p")
    boxes = np.load(path / "boxes.npy")
    boxes[1, 2] = np.nan
    boxes[4] = [0, 0, 61, 5]
    np.save(path / "boxes.npy", boxes)
    np.save(path / "sources.npy", np.full(8, 9, np.uint8))
    problems = ProposalStore.open(path).check()
    assert len(problems) == 3
    assert "box 1 of image 'im0'" in problems[0] and "nan" in problems[0]
    assert "box 1 of image 'im2'" in problems[1] and "61.0" in problems[1]
    assert "sources.npy" in problems[2]
    short = ProposalStore.open(path).check(limit=1)
    assert "and 1 more" in short[-1]


def test_pickled_store_reopens_by_path_in_another_process_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    store = ProposalStore.open(Path("p"))
    data = pickle.dumps(store)
    assert len(data) < 1000
    (tmp_path / "store.pkl").write_bytes(data)
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r})\n"
        "import pickle; s = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(len(s), len(s['im2']))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store.pkl")],
        cwd=tmp_path.parent,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert output.split() == ["3", "5"]


def test_opening_twenty_thousand_images_takes_well_under_a_second(tmp_path: Path) -> None:
    images, per_image = 20_000, 50
    path = tmp_path / "p"
    with ProposalStoreWriter(path) as writer:
        writer.add("seed", [BOX], image_size=SIZE)
    # Made by hand: only opening is timed.
    np.save(path / "boxes.npy", np.tile(np.float32(BOX), (images * per_image, 1)))
    np.save(path / "offsets.npy", np.arange(images + 1, dtype=np.int64) * per_image)
    np.save(path / "sizes.npy", np.tile(np.int32(SIZE), (images, 1)))
    edit_index(path, image_ids=[f"{i:06d}" for i in range(images)])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        store = ProposalStore.open(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
    assert len(store["019999"]) == per_image
    assert store.check() == []
