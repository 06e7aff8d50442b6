"""Stored maps as label maps: normalization, flags, confidence, and what is refused."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weaksam_d2.artifacts import CamMaps, CamStore, CamStoreWriter, LabelSpace
from weaksam_d2.cams import CAM, read_cam
from weaksam_d2.cams import labels as module
from weaksam_d2.cams.crf import CRF_SETTINGS, RefinedLabels
from weaksam_d2.data import LABEL_SOURCE_REGISTRY
from weaksam_d2.engine.cli import base_config
from weaksam_d2.model_zoo import get_config_file, list_config_files
from weaksam_d2.ops import (
    background_score,
    cam_to_label,
    divide_by_maximum,
    fuse_scales,
    normalize_map,
)

NAMES = ["duck", "swan", "goose"]
SPACE = LabelSpace("birds", NAMES)
SIZE = (32, 48)


def maps(
    classes: list[int], seed: int = 0, *, fine: bool = False, gate: str = "gt", empty: int = -1
) -> CamMaps:
    rng = np.random.default_rng(seed)
    scales = tuple(
        rng.uniform(1, 5, (len(classes), h, w)).astype(np.float32) for h, w in ((2, 3), (4, 6))
    )
    for scale in scales:
        for row, class_id in enumerate(classes):
            if class_id == empty:
                scale[row] = 0
    finer = tuple(scale[..., ::-1].copy() for scale in scales) if fine else None
    return CamMaps(SIZE, np.array(classes, np.int64), scales, finer, gate=gate)


def store(path: Path, images: dict[str, CamMaps], normalize: str = "minmax") -> CamStore:
    with CamStoreWriter(
        path, class_names=NAMES, network="CNN", scales=(1.0, 2.0), normalize=normalize
    ) as writer:
        for image_id, item in images.items():
            writer.add(image_id, item)
    return CamStore.open(path)


def record(image_id: str, tags: list[int]) -> dict[str, Any]:
    return {"image_id": image_id, "height": 32, "width": 48, "image_labels": tags}


@pytest.mark.parametrize("normalize", ["minmax", "max"])
def test_maps_are_resized_added_and_normalized_as_the_store_says(
    tmp_path: Path, normalize: str
) -> None:
    opened = store(tmp_path / "cams", {"a": maps([0, 2])}, normalize)
    cam, classes = read_cam(opened, "a")
    stored = [torch.from_numpy(scale) for scale in opened["a"].coarse]
    total = sum(
        torch.nn.functional.interpolate(s[None], SIZE, mode="bilinear", align_corners=False)[0]
        for s in stored
    )
    assert isinstance(total, torch.Tensor)
    expected = normalize_map(total) if normalize == "minmax" else divide_by_maximum(total)
    assert classes.tolist() == [0, 2] and cam.dtype == np.float32 and cam.shape == (2, *SIZE)
    np.testing.assert_allclose(cam, expected.numpy(), atol=1e-6)
    assert cam.min() >= 0 and cam.max() <= 1
    assert (cam.min() == 0) == (normalize == "minmax")  # all values of the maps are positive


def test_fine_maps_are_taken_where_there_are_any(tmp_path: Path) -> None:
    opened = store(tmp_path / "cams", {"a": maps([1], fine=True)})
    fine, coarse = (read_cam(opened, "a", kind=kind).cam for kind in ("fine", "coarse"))
    assert np.array_equal(read_cam(opened, "a").cam, fine) and not np.array_equal(fine, coarse)
    plain = store(tmp_path / "plain", {"a": maps([1])})
    assert np.array_equal(read_cam(plain, "a").cam, read_cam(plain, "a", kind="coarse").cam)
    with pytest.raises(ValueError, match="has no fine maps: CNN gives none"):
        read_cam(plain, "a", kind="fine")
    with pytest.raises(ValueError, match="kind is 'best'"):
        read_cam(plain, "a", kind="best")
    with pytest.raises(KeyError, match="image 'b' is not in"):
        read_cam(plain, "b")


def test_labels_are_the_best_of_background_and_maps(tmp_path: Path) -> None:
    opened = store(tmp_path / "cams", {"a": maps([0, 2]), "none": maps([])})
    source = CAM(store=opened, space=SPACE, background="constant:0.5")
    result = source(record("a", [0, 2]))
    cam = fuse_scales([torch.from_numpy(s) for s in opened["a"].coarse], SIZE).numpy()
    assert np.array_equal(result.label, cam_to_label(cam, [0, 2], background="constant:0.5"))
    assert result.label.shape == SIZE and set(np.unique(result.label)) == {0, 1, 3}
    assert result.flags == () and result.tags is None
    nothing = source(record("none", []))
    assert not nothing.label.any() and nothing.flags == ("no_tags",)
    assert (source.system, source.base, source.supervision) == ("CAM", "paper", "image_labels")


def test_a_class_without_map_or_without_pixels_is_flagged_by_its_label(tmp_path: Path) -> None:
    # A constant map is normalized to zero; class 2 has a map that class 0 covers everywhere.
    both = maps([0, 1, 2], empty=1)
    for scale in both.coarse:
        scale[2] = scale[0]
    opened = store(tmp_path / "cams", {"a": both})
    result = CAM(store=opened, space=SPACE)(record("a", [0, 1, 2]))
    assert result.flags == ("class_empty:2", "lost:3")
    assert set(np.unique(result.label)) == {0, 1}


def test_predicted_classes_are_the_tags_of_images_without_any(tmp_path: Path) -> None:
    opened = store(tmp_path / "cams", {"a": maps([1], gate="pred"), "b": maps([0])})
    source = CAM(store=opened, space=SPACE)
    assert source(record("a", [])).tags == (1,)
    assert source(record("b", [0])).tags is None


def test_what_contradicts_itself_is_refused_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store(tmp_path / "cams", {"a": maps([0])})
    with pytest.raises(ValueError, match="CONFIDENCE is 0.95, but only a CRF gives probabilities"):
        CAM(store=opened, space=SPACE, confidence=0.95)
    with pytest.raises(ValueError, match="WEAKSAM.LABELS.CRF is 'sharp'"):
        CAM(store=opened, space=SPACE, crf="sharp")
    with pytest.raises(ValueError, match=r"has maps of \['duck', .* has the classes \['swan'"):
        CAM(store=opened, space=LabelSpace("other", ["swan", "duck", "goose"]))
    if importlib.util.find_spec("pydensecrf") is None:
        with pytest.raises(ImportError, match="install"):
            CAM(store=opened, space=SPACE, crf="s2c")


@pytest.mark.parametrize(("crf", "rows"), [("weaktr_voc", 0), ("clipes", 3)])
def test_the_crf_sees_the_image_and_unsure_pixels_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crf: str, rows: int
) -> None:
    """In place of the CRF: one that gives the right half to the first label, and is sure there."""
    calls: list[tuple[Any, ...]] = []

    def right_half(image: Any, start: Any, setting: str, *, ids: Any = None) -> RefinedLabels:
        calls.append((image, start, setting, ids))
        label, sure = np.zeros(SIZE, np.uint8), np.full((2, *SIZE), 0.5, np.float32)
        label[:, 24:] = 1
        sure[1, :, 24:] = 0.95
        return RefinedLabels(label, sure, np.array([0, 1], np.uint8))

    monkeypatch.setattr(module, "dense_crf", right_half)
    monkeypatch.setattr(module, "crf_setting", lambda name: CRF_SETTINGS[name])
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    opened = store(tmp_path / "cams", {"a": maps([0, 2]), "none": maps([])})
    source = CAM(store=opened, space=SPACE, crf=crf, confidence=0.9, background="power:1")
    result = source({**record("a", [0, 2]), "file_name": str(tmp_path / "a.png")})
    assert (result.label[:, :24] == 255).all() and (result.label[:, 24:] == 1).all()
    assert result.flags == ("lost:3",)
    ((image, start, setting, ids),) = calls
    assert np.array_equal(image, pixels) and setting == crf
    if rows:
        assert start.shape == (rows, *SIZE) and ids == [0, 1, 3]
        np.testing.assert_allclose(start[0], 1 - start[1:].max(axis=0), atol=1e-6)
    else:
        assert start.dtype == np.uint8 and ids is None
    assert source({**record("none", []), "file_name": "unread"}).flags == ("no_tags",)
    assert len(calls) == 1  # an image without maps is not read


@pytest.mark.parametrize("name", [n for n in list_config_files() if n.startswith("CAM-Labels/")])
def test_published_settings_are_sound(name: str) -> None:
    """Known CRFs and backgrounds, at most the maps that labels are made of."""
    cfg = base_config()
    cfg.merge_from_file(get_config_file(name))
    labels = cfg.WEAKSAM.LABELS
    assert labels.CRF in ("", *CRF_SETTINGS) and not cfg.WEAKSAM.CAMS.SAVE_CROSS
    assert not labels.CONFIDENCE or labels.CRF
    background_score(np.zeros((1, 1, 1)), labels.BACKGROUND)
    if labels.CRF:  # the unary that belongs to the rule of the background
        hard = CRF_SETTINGS[labels.CRF].unary == "labels"
        assert hard == labels.BACKGROUND.startswith("constant")


def test_the_registered_source_reads_the_config(tmp_path: Path) -> None:
    store(tmp_path / "cams", {"a": maps([0])})
    cfg = base_config()
    assert cfg.WEAKSAM.LABELS.SOURCE == "CAM" and cfg.WEAKSAM.LABELS.CRF == ""
    cfg.WEAKSAM.LABELS.BACKGROUND = "power:2"
    source = LABEL_SOURCE_REGISTRY.get("CAM")(cfg, {"input": tmp_path / "cams"}, SPACE)
    assert source.background == "power:2" and source.confidence == 0
    with pytest.raises(ValueError, match="--input is missing: give a folder of activation maps"):
        LABEL_SOURCE_REGISTRY.get("CAM")(cfg, {}, SPACE)
