"""The mapper of semantic segmentation: ids survive it, padding is 255, nothing else leaks."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.utils.env import seed_all_rng
from PIL import Image

from weaksam_d2.artifacts import write_label_png
from weaksam_d2.data import SemSegMapper, read_record_label, reads_label_images
from weaksam_d2.data.images import DamagedImageError

IDS = (0, 3, 7, 255)
HEIGHT, WIDTH = 40, 60


@pytest.fixture
def cfg(weak_cfg: Any) -> Any:
    weak_cfg.INPUT.MAPPER_NAME = "SemSegMapper"
    weak_cfg.MODEL.LOAD_PROPOSALS = False
    weak_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    weak_cfg.INPUT.MIN_SIZE_TRAIN = (25, 33, 48, 71)
    weak_cfg.INPUT.CROP.ENABLED, weak_cfg.INPUT.CROP.TYPE = True, "absolute"
    weak_cfg.INPUT.CROP.SIZE = [48, 56]
    weak_cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    return weak_cfg


@pytest.fixture
def record(tmp_path: Path, save_image: Callable[..., Path]) -> dict[str, Any]:
    """An image whose red channel is its label (3 and 7 apart, so that blending would show)."""
    label = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    label[5:30, 5:25], label[8:36, 30:55], label[4:6] = 3, 7, 255
    write_label_png(tmp_path / "a_label.png", label)
    pixels = np.stack([label] * 3, axis=-1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": "a",
        "height": HEIGHT,
        "width": WIDTH,
        "sem_seg_file_name": str(tmp_path / "a_label.png"),
    }


def test_labels_are_never_blended_and_follow_the_image(cfg: Any, record: dict[str, Any]) -> None:
    mapper, sizes, agreement = SemSegMapper(cfg, True), set(), []
    for seed in range(12):
        seed_all_rng(seed)
        sample = mapper(record)
        image, label = sample["image"], sample["sem_seg"]
        assert label.dtype == torch.int64 and label.shape == image.shape[1:] == (48, 56)
        assert set(label.unique().tolist()) <= set(IDS)
        sizes.add(int((label != 255).sum()))
        inside = (label != 255) & (image[0] <= 7)  # away from the row of 255 and from padding
        agreement.append((image[0].to(torch.int64) == label)[inside].float().mean().item())
    assert len(sizes) > 3  # scales and crops differ
    assert min(agreement) > 0.7  # only borders, where the image is blended, differ


def test_what_an_image_lacks_is_gray_and_has_no_label(cfg: Any, record: dict[str, Any]) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (20,), "none"  # 20 x 30 in 48 x 56
    sample = SemSegMapper(cfg, True)(record)
    image, label = sample["image"], sample["sem_seg"]
    assert (label[20:] == 255).all() and (label[:, 30:] == 255).all()
    gray = int(np.mean(cfg.MODEL.PIXEL_MEAN))
    assert (image[:, 20:] == gray).all() and (image[:, :, 30:] == gray).all()
    assert not (label[5:15, :30] == 255).all()


def test_a_crop_in_the_center(cfg: Any, record: dict[str, Any]) -> None:
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "center", [20, 20]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (HEIGHT,), "none"
    sample = SemSegMapper(cfg, True)(record)
    expected = read_record_label(record)[10:30, 20:40]
    assert torch.equal(sample["sem_seg"], torch.from_numpy(expected.astype(np.int64)))
    cfg.INPUT.CROP.TYPE = "relative"
    with pytest.raises(ValueError, match="INPUT.CROP.TYPE is 'relative'.*'center'"):
        SemSegMapper(cfg, True)


def test_no_class_fills_the_crop_if_that_can_be_avoided(cfg: Any, record: dict[str, Any]) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE = (HEIGHT,), [16, 16]
    shares = []
    for seed in range(10):
        seed_all_rng(seed)
        label = SemSegMapper(cfg, True)(record)["sem_seg"]
        known = label[label != 255]
        shares.append(known.bincount().max().item() / len(known))
    assert sum(share < 0.75 for share in shares) >= 8


def test_a_label_written_by_us_reads_the_same_through_the_stock_mapper(
    cfg: Any, record: dict[str, Any]
) -> None:
    """Not so a palette image: the stock mapper reads its gray levels."""
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.MIN_SIZE_TRAIN = False, (HEIGHT,)
    cfg.INPUT.RANDOM_FLIP = "none"
    ours, stock = SemSegMapper(cfg, True), DatasetMapper(cfg, True)
    assert torch.equal(ours(record)["sem_seg"], stock(record)["sem_seg"])
    path = Path(record["sem_seg_file_name"])
    palette = Image.open(path).convert("L")
    palette.putpalette([value for k in range(256) for value in (k * 37 % 256, 0, 0)])
    palette.save(path)
    assert Image.open(path).mode == "P"
    assert set(ours(record)["sem_seg"].unique().tolist()) == set(IDS)
    assert not torch.equal(ours(record)["sem_seg"], stock(record)["sem_seg"])


def test_a_table_of_labels_is_applied_before_anything_else(
    cfg: Any, record: dict[str, Any]
) -> None:
    lut = np.full(256, 254, dtype=np.uint8)
    lut[[0, 3, 7, 255]] = [0, 1, 2, 255]
    sample = SemSegMapper(cfg, True)({**record, "sem_seg_lut": lut.tobytes()})
    assert set(sample["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}
    assert "sem_seg_lut" not in sample and "sem_seg_file_name" not in sample
    lut[7] = 254
    with pytest.raises(ValueError, match=r"a_label.png' holds \[7\].*0 to 7"):
        SemSegMapper(cfg, True)({**record, "sem_seg_lut": lut.tobytes()})


def test_what_is_wrong_with_a_label_is_named(
    cfg: Any, record: dict[str, Any], tmp_path: Path
) -> None:
    mapper = SemSegMapper(cfg, True)
    without = {k: v for k, v in record.items() if k != "sem_seg_file_name"}
    with pytest.raises(ValueError, match="image 'a' .*PSEUDO_LABELS_TRAIN"):
        mapper(without)
    with pytest.raises(ValueError, match="a_label.png"):
        mapper({**record, "height": HEIGHT + 1})
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    with pytest.raises(ValueError, match="holds the value 7, expected label ids from 0 to 6"):
        SemSegMapper(cfg, True)(record)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DamagedImageError, match="a.png"):
        mapper(record)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 0
    with pytest.raises(ValueError, match="IGNORE_VALUE is 0"):
        SemSegMapper(cfg, True)


def test_only_image_and_label_reach_the_model(cfg: Any, record: dict[str, Any]) -> None:
    full = {**record, "annotations": [{"bbox": [0, 0, 5, 5]}], "image_labels": [2]}
    kept = {"file_name", "image_id", "height", "width", "image"}
    assert set(SemSegMapper(cfg, True)(full)) == {*kept, "sem_seg"}
    cfg.INPUT.MIN_SIZE_TEST = 20
    test = SemSegMapper(cfg, False)
    sample = test({**full, "sem_seg_file_name": "/nowhere.png"})
    assert set(sample) == kept and sample["image"].shape == (3, 20, 30)
    assert "annotations" in full  # the record itself is not changed
    pickle.loads(pickle.dumps(test))


def test_colors_change_the_image_and_not_the_label(cfg: Any, record: dict[str, Any]) -> None:
    pytest.importorskip("cv2")
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.MIN_SIZE_TRAIN = False, (HEIGHT,)
    cfg.INPUT.RANDOM_FLIP = "none"
    plain = SemSegMapper(cfg, True)(record)
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper, changed = SemSegMapper(cfg, True), []
    for seed in range(4):
        seed_all_rng(seed)
        sample = mapper(record)
        assert torch.equal(sample["sem_seg"], plain["sem_seg"])
        changed.append(not torch.equal(sample["image"], plain["image"]))
    assert any(changed)


def test_colors_without_opencv_say_what_to_install(cfg: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "detectron2.projects.point_rend", None)
    SemSegMapper(cfg, True)
    cfg.INPUT.COLOR_AUG_SSD = True
    with pytest.raises(ImportError, match="COLOR_AUG_SSD True needs OpenCV.*pip install"):
        SemSegMapper(cfg, True)


def test_which_mappers_read_label_images(cfg: Any) -> None:
    found = {}
    for name in ("SemSegMapper", "WeakDatasetMapper", ""):
        cfg.INPUT.MAPPER_NAME = name
        found[name] = reads_label_images(cfg)
    assert found == {"SemSegMapper": True, "WeakDatasetMapper": False, "": False}
