"""CamStore: round trip of every kind of map, validation, damage."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ArtifactError, CamMaps, CamStore, CamStoreWriter

NAMES = ("duck", "swan", "goose")
SIDES = ((2, 3), (4, 5))


def random_maps(rng: np.random.Generator, classes: list[int], **change: Any) -> CamMaps:
    m = len(classes)
    fields: dict[str, Any] = {
        "image_size": (20, 30),
        "classes": np.array(classes, dtype=np.int64),
        "coarse": tuple(rng.normal(size=(m, *side)).astype(np.float32) for side in SIDES),
        "fine": tuple(rng.normal(size=(m, *side)).astype(np.float32) for side in SIDES),
        "cross": tuple(rng.normal(size=(m, 2, 3, *side)).astype(np.float32) for side in SIDES),
        "gate": "pred" if m == 2 else "gt",
    }
    return CamMaps(**{**fields, **change})


def writer_for(path: Path, **change: Any) -> CamStoreWriter:
    options: dict[str, Any] = {
        "class_names": NAMES,
        "network": "CNN",
        "scales": (1.0, 1.5),
        "heads": 2,
        "blocks": (11, 12, 10),
    }
    return CamStoreWriter(path, **{**options, **change})


def assert_maps_equal(got: CamMaps, want: CamMaps) -> None:
    assert got.image_size == want.image_size and got.gate == want.gate
    assert got.classes.dtype == np.int64
    np.testing.assert_array_equal(got.classes, want.classes)
    for kind in ("coarse", "fine", "cross"):
        ours, theirs = getattr(got, kind), getattr(want, kind)
        assert (ours is None) == (theirs is None)
        for a, b in zip(ours or (), theirs or (), strict=True):
            assert a.dtype == np.float32 and a.shape == b.shape
            np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))


def test_round_trip_of_all_kinds_with_an_image_without_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = {"a": random_maps(rng, []), "b": random_maps(rng, [0, 2]), "c": random_maps(rng, [1])}
    with writer_for(tmp_path / "cams") as writer:
        for image_id, item in maps.items():
            writer.add(image_id, item)
    store = CamStore.open(tmp_path / "cams")
    assert store.image_ids == ["a", "b", "c"] and store.class_names == list(NAMES)
    for image_id, item in maps.items():
        assert_maps_equal(store[image_id], item)
    assert store.index["network"] == "CNN" and store.scales == (1.0, 1.5)
    assert store.index["format"] == "weaksam_d2.cams/1" and store.index["gates"] == ["gt", "pred"]
    assert np.load(tmp_path / "cams" / "coarse.npy").dtype == np.float16
    assert_maps_equal(pickle.loads(pickle.dumps(store))["b"], maps["b"])


def test_maps_carry_the_numbers_of_their_blocks(tmp_path: Path) -> None:
    maps = random_maps(np.random.default_rng(0), [1], blocks=(11, 12, 10))
    with writer_for(tmp_path / "cams") as writer:
        writer.add("a", maps)
        other = random_maps(np.random.default_rng(0), [1], blocks=(1, 2, 3))
        with pytest.raises(ValueError, match=r"'b' are of blocks \[1, 2, 3\].* \[11, 12, 10\]"):
            writer.add("b", other)
    assert CamStore.open(tmp_path / "cams")["a"].blocks == (11, 12, 10)


def test_coarse_alone_writes_no_other_file(tmp_path: Path) -> None:
    maps = random_maps(np.random.default_rng(0), [1], fine=None, cross=None)
    with writer_for(tmp_path / "cams") as writer:
        writer.add("empty", random_maps(np.random.default_rng(0), []))
        writer.add("a", maps)
    assert not list((tmp_path / "cams").glob("fine*")) + list((tmp_path / "cams").glob("cross*"))
    assert_maps_equal(CamStore.open(tmp_path / "cams")["a"], maps)


def test_attention_of_the_whole_image_has_one_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = tuple(rng.normal(size=(1, 2, 3, *side)).astype(np.float32) for side in SIDES)
    with writer_for(tmp_path / "cams", cross_rows="image") as writer:
        writer.add("none", random_maps(rng, [], cross=one))
        writer.add("two", random_maps(rng, [0, 1], cross=one))
    store = CamStore.open(tmp_path / "cams")
    np.testing.assert_array_equal(store["two"].cross[1], one[1].astype(np.float16))
    assert store["none"].cross[1].shape == (0, 2, 3, 4, 5)
    assert store["two"].cross_rows == "image"


def test_maps_of_another_size_in_each_image(tmp_path: Path) -> None:
    with writer_for(tmp_path / "cams") as writer:
        for i in range(1, 4):
            coarse = (np.full((1, i, 2), i), np.full((1, 3, i), -i))
            writer.add(str(i), CamMaps((9, 9), np.array([0]), coarse))
    store = CamStore.open(tmp_path / "cams")
    for i in range(1, 4):
        first, second = store[str(i)].coarse
        assert first.shape == (1, i, 2) and (first == i).all()
        assert second.shape == (1, 3, i) and (second == -i).all()


@pytest.mark.parametrize("ids", [[], ["a"]])
def test_store_without_maps_opens(tmp_path: Path, ids: list[str]) -> None:
    with writer_for(tmp_path / "cams") as writer:
        for image_id in ids:
            writer.add(image_id, random_maps(np.random.default_rng(0), []))
    assert CamStore.open(tmp_path / "cams").image_ids == ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": np.array([2, 1])}, r"rising and in \[0, 3\), got \[2, 1\]"),
        ({"classes": np.array([1, 3])}, r"rising and in \[0, 3\)"),
        ({"gate": "guess"}, "guess"),
        ({"coarse": (np.zeros((2, 2, 3)),)}, r"got 1, one for each scale \[1.0, 1.5\]"),
        ({"coarse": (np.zeros((2, 3)), np.zeros((2, 4, 5)))}, r"\(2, 3\)"),
        ({"fine": (np.zeros((2, 2, 3)), np.zeros((2, 4, 4)))}, r"scale 1.5 .*\(2, 4, 5\)"),
        ({"cross": (np.zeros((1, 2, 3, 2, 3)), np.zeros((1, 2, 3, 4, 5)))}, r"\(2, 2, 3, 2, 3\)"),
        ({"coarse": (np.full((2, 2, 3), 1e5), np.zeros((2, 4, 5)))}, "holds 100000.0.*float16"),
        ({"coarse": (np.full((2, 2, 3), np.nan), np.zeros((2, 4, 5)))}, "holds nan"),
        ({"fine": None}, r"has maps \['cross'\]"),
    ],
)
def test_wrong_maps_name_the_image(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    rng = np.random.default_rng(0)
    with writer_for(tmp_path / "cams") as writer:
        writer.add("good", random_maps(rng, [0, 1]))
        with pytest.raises(ValueError, match=words) as error:
            writer.add("x7", replace(random_maps(rng, [0, 1]), **change))
        assert "'x7'" in str(error.value)
    assert CamStore.open(tmp_path / "cams").image_ids == ["good"]


@pytest.mark.parametrize(
    "change",
    [{"scales": ()}, {"normalize": "mean"}, {"normalize": "none"}, {"cross_rows": "pixel"}],
    ids=str,
)
def test_wrong_header_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        writer_for(tmp_path / "cams", **change)


@pytest.mark.parametrize("name", ["coarse", "fine", "cross", "fine_offsets", "map_sizes", "gates"])
def test_cut_off_file_is_named(tmp_path: Path, name: str) -> None:
    with writer_for(tmp_path / "cams") as writer:
        writer.add("a", random_maps(np.random.default_rng(0), [0]))
    file = tmp_path / "cams" / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ArtifactError, match=f"{name}.npy"):
        CamStore.open(tmp_path / "cams")


def test_offsets_that_contradict_the_map_sizes_are_named(tmp_path: Path) -> None:
    with writer_for(tmp_path / "cams") as writer:
        writer.add("a", random_maps(np.random.default_rng(0), [0]))
    file = tmp_path / "cams" / "fine_offsets.npy"
    np.save(file, np.load(file) + np.array([0, 1, 0]))
    with pytest.raises(ArtifactError, match="fine_offsets.npy gives image 'a', scale 1.0, 7"):
        CamStore.open(tmp_path / "cams")
