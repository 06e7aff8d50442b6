"""Files of official codes: their layouts, and what is told apart from them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weaksam_d2.artifacts import ForeignFileError, UnsafePickleError
from weaksam_d2.cams.official_files import find_files, read_official_maps

MAPS = np.random.default_rng(0).random((2, 4, 6)).astype(np.float32)
HALF = MAPS.astype(np.float16)


def save(folder: Path, content: Any, name: str = "a") -> Path:
    np.save(folder / f"{name}.npy", content)
    return folder / f"{name}.npy"


def record(image_id: str, file_name: str = "") -> dict[str, Any]:
    return {"image_id": image_id, "file_name": file_name}


def test_maps_of_clip_es_are_sorted_by_their_keys(tmp_path: Path) -> None:
    # Its keys are in the order of the annotated objects, and its maps of half precision.
    path = save(tmp_path, {"keys": np.array([14, 3]), "attn_highres": HALF})
    found = read_official_maps(path, "clip_es")
    assert found.classes.tolist() == [3, 14] and found.classes.dtype == np.int64
    assert len(found.kinds) == 1
    np.testing.assert_array_equal(found.kinds[0], HALF[::-1])


def test_maps_before_the_refinement_come_first(tmp_path: Path) -> None:
    content = {"keys": np.array([1, 0]), "highres": HALF, "attn_highres": HALF / 2}
    content["strided_cam"] = np.zeros((2, 1, 1))
    before, after = read_official_maps(save(tmp_path, content), "clip_es").kinds
    np.testing.assert_array_equal(before, HALF[::-1])
    np.testing.assert_array_equal(after, HALF[::-1] / 2)


def test_maps_of_irn_have_another_name(tmp_path: Path) -> None:
    content = {"keys": np.array([2, 7]), "high_res": MAPS, "cam": MAPS[:, ::4, ::4]}
    found = read_official_maps(save(tmp_path, content), "irn")
    assert found.classes.tolist() == [2, 7]
    np.testing.assert_array_equal(found.kinds[0], MAPS)


@pytest.mark.parametrize("kind", [int, np.int64])
def test_a_dict_by_class_is_stacked_by_class(tmp_path: Path, kind: Any) -> None:
    found = read_official_maps(save(tmp_path, {kind(19): MAPS[0], kind(0): MAPS[1]}), "class_maps")
    assert found.classes.tolist() == [0, 19]
    np.testing.assert_array_equal(found.kinds[0], MAPS[::-1])


@pytest.mark.parametrize(
    ("layout", "content"),
    [
        ("class_maps", {}),
        ("clip_es", {"keys": np.array([]), "attn_highres": np.array([])}),
        ("clip_es", {"keys": np.zeros(0, int), "attn_highres": HALF[:0]}),
        ("irn", {"keys": np.zeros(0, int), "high_res": MAPS[:0]}),
    ],
)
def test_no_class_is_no_map(tmp_path: Path, layout: str, content: Any) -> None:
    found = read_official_maps(save(tmp_path, content), layout)
    assert found.classes.tolist() == [] and len(found.kinds[0]) == 0


BROKEN = MAPS.copy()
BROKEN[1, 2, 3] = np.nan
KEYS = np.array([0, 1])


@pytest.mark.parametrize(
    ("layout", "content", "words"),
    [
        ("clip_es", {0: MAPS[0]}, "has 0, expected 'keys'.*like layout 'class_maps'"),
        ("clip_es", {}, "has nothing, expected 'keys' and 'highres' or 'attn_highres'"),
        ("clip_es", {"keys": KEYS, "high_res": MAPS}, "like layout 'irn'"),
        ("class_maps", {"keys": KEYS, "attn_highres": MAPS}, "the key 'keys'.*layout 'clip_es'"),
        ("class_maps", {1.0: MAPS[0]}, "has the key 1.0, expected class numbers"),
        ("class_maps", {True: MAPS[0]}, "has the key True"),
        ("class_maps", {1 << 40: MAPS[0]}, "beyond 32 bits"),
        ("class_maps", {0: MAPS}, r"the map of class 0 is an array of float32 of shape \(2, 4, 6"),
        ("class_maps", {0: [1.0]}, "the map of class 0 is a list"),
        ("class_maps", {0: MAPS[0] > 0}, "array of bool"),
        ("class_maps", {0: MAPS[0], 1: MAPS[0, :2]}, "maps of several sizes"),
        ("class_maps", {0: MAPS[0, :0]}, r"shape \(0, 6\), expected floats \(H, W\)"),
        ("class_maps", {5: BROKEN[1]}, "not finite"),
        ("clip_es", {"keys": KEYS, "attn_highres": BROKEN}, "not finite"),
        # The background in front: more keys than maps.
        ("clip_es", {"keys": np.array([0, 4, 8]), "attn_highres": MAPS}, "for 3 keys.*background"),
        ("clip_es", {"keys": np.array([4, 4]), "attn_highres": MAPS}, "two maps of class 4"),
        ("clip_es", {"keys": [0, 1], "attn_highres": MAPS}, "'keys' is a list"),
        ("clip_es", {"keys": np.array([0.0, 1]), "attn_highres": MAPS}, "'keys' is an array of fl"),
        ("clip_es", {"keys": KEYS, "attn_highres": MAPS[0]}, r"expected floats \(K, H, W\)"),
        (
            "clip_es",
            {"keys": KEYS, "highres": MAPS[:, :2], "attn_highres": MAPS},
            "one map for each of one size",
        ),
    ],
)
def test_what_is_not_the_layout_is_named(
    tmp_path: Path, layout: str, content: Any, words: str
) -> None:
    with pytest.raises(ForeignFileError, match=rf"a\.npy.*{words}"):
        read_official_maps(save(tmp_path, content), layout)


def test_tensors_of_torch_and_other_objects_are_refused(tmp_path: Path) -> None:
    import torch

    content = {"keys": torch.tensor([1, 2]), "high_res": MAPS}  # as IRN's own code saves them
    with pytest.raises(UnsafePickleError, match="torch"):
        read_official_maps(save(tmp_path, content), "irn")
    with pytest.raises(UnsafePickleError, match="set"):
        read_official_maps(save(tmp_path, {0: {1}}), "class_maps")
    (tmp_path / "a.npy").write_bytes(pickle.dumps({0: MAPS[0]}))
    with pytest.raises(ForeignFileError, match="is not a .npy file"):
        read_official_maps(tmp_path / "a.npy", "class_maps")
    with pytest.raises(ValueError, match="layout is 'psa'"):
        read_official_maps(tmp_path / "a.npy", "psa")


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(layout=st.sampled_from(["clip_es", "class_maps"]), data=st.data())
def test_changed_bytes_are_an_error_or_maps(
    tmp_path: Path, layout: str, data: st.DataObject
) -> None:
    by_class = {3: MAPS[0], 1: MAPS[1]}
    keyed = {"keys": KEYS, "attn_highres": HALF}
    path = save(tmp_path, keyed if layout == "clip_es" else by_class)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_official_maps(path, layout)
    except ForeignFileError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
        return
    assert found.classes.dtype == np.int64 and (np.diff(found.classes) > 0).all()
    for maps in found.kinds:
        assert maps.ndim == 3 and len(maps) == len(found.classes) and np.isfinite(maps).all()


def test_files_are_matched_by_id_or_by_file_name(tmp_path: Path) -> None:
    for name in ("a", "COCO_train2014_000000000009", "birds%2F7", "other"):
        save(tmp_path, {}, name)
    (tmp_path / "notes.txt").write_text("")
    records = [
        record("a", "x.jpg"),
        record("9", "images/COCO_train2014_000000000009.jpg"),
        record("birds/7"),
        record("none", "none.jpg"),
    ]
    found = find_files(tmp_path, records)
    names = {image_id: path.name for image_id, path in found.paths.items()}
    assert names == {
        "a": "a.npy", "9": "COCO_train2014_000000000009.npy", "birds/7": "birds%2F7.npy"
    }  # fmt: skip
    assert found.missing == ["none"] and found.surplus == ["other.npy"]


def test_files_that_could_be_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match="is no folder with activation maps"):
        find_files(tmp_path, [])
    save(tmp_path, {}, "a")
    with pytest.raises(ForeignFileError, match="the file of two images, '1' and '2'"):
        find_files(tmp_path, [record("1", "x/a.jpg"), record("2", "y/a.jpg")])
    save(tmp_path, {}, "1")
    with pytest.raises(ForeignFileError, match=r"two files for image '1': 1\.npy.*a\.npy"):
        find_files(tmp_path, [record("1", "x/a.jpg")])
