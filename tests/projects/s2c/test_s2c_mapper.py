"""Views for training: image and segments go the same way (wsss.md, Sec. 6.2, 6.5)."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from weaksam_d2.projects.s2c import S2CMapper

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import weak_records
from weaksam_d2.ops import encode_rle

PLAIN = ("INPUT.S2C.JITTER_PROB", 0.0, "INPUT.S2C.GRAY_PROB", 0.0)
MEAN = (10.0, 20.0, 30.0)


def two_colors(folder: Path, size: tuple[int, int]) -> dict[str, Any]:
    """An image whose left third is red and the rest blue, and masks of exactly these parts."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    cut = width // 3
    pixels[:, :cut, 0], pixels[:, cut:, 2] = 255, 255
    Image.fromarray(pixels).save(folder / "two.png")
    masks = np.zeros((2, height, width), bool)
    masks[0, :, :cut], masks[1, :, cut:] = True, True
    boxes = [[0, 0, cut, height], [cut, 0, width, height]]
    with ProposalStoreWriter(folder / "two") as writer:
        writer.add("two", boxes, scores=[0.9, 0.9], masks=encode_rle(masks), image_size=size)
    path = str(folder / "two.png")
    return {"file_name": path, "image_id": "two", "height": height, "width": width}


def mapper_of(cfg: Any, store: Path) -> S2CMapper:
    cfg.MODEL.S2C.MASKS = str(store)
    cfg.MODEL.PIXEL_MEAN = list(MEAN)
    return S2CMapper(cfg, True)


@pytest.mark.parametrize(
    ("size", "sides"), [((40, 60), (60, 60)), ((40, 60), (20, 90)), ((90, 30), (40, 70))]
)
def test_every_pixel_keeps_its_segment_through_resize_flip_and_crop(
    tiny_cfg: Callable[..., Any], tmp_path: Path, size: tuple[int, int], sides: tuple[int, int]
) -> None:
    record = {**two_colors(tmp_path, size), "image_labels": [1]}
    cfg = tiny_cfg(*PLAIN, "INPUT.S2C.LONGEST_SIDE", sides, "INPUT.S2C.CROP_SIZE", 40)
    mapper = mapper_of(cfg, tmp_path / "two")
    np.random.seed(0)
    mirrored = 0
    for _ in range(12):
        view = mapper(record)
        image, ids, valid = view["image"], view["segments"], view["valid"]
        assert image.dtype == torch.float32 and image.shape == (3, 40, 40)
        assert ids.dtype == torch.int32 and ids.shape == valid.shape == (40, 40)
        # Padding: the mean color, no segment.
        assert not ids[~valid].any()
        outside = image[:, ~valid]
        torch.testing.assert_close(outside, torch.tensor(MEAN)[:, None].expand_as(outside))
        assert bool((ids[valid] > 0).all())
        # The larger part was painted first; alone in a crop either is number 1.
        red, blue = (image[0] > 200) & valid, (image[2] > 200) & valid
        parts = [ids[part].unique() for part in (blue, red) if bool(part.any())]
        assert [part.tolist() for part in parts] in ([[1], [2]], [[1]])
        if len(parts) == 2:
            columns = [float(part.nonzero()[:, 1].float().mean()) for part in (blue, red)]
            mirrored += columns[0] < columns[1]
        # Between the parts bicubic pixels are mixed; nothing else is.
        assert int((valid & ~red & ~blue).sum()) <= 6 * 40
    assert mirrored or sides[0] != sides[1]
    assert view["image_labels"].tolist() == [1]


def test_without_flip_nothing_is_mirrored(tiny_cfg: Callable[..., Any], tmp_path: Path) -> None:
    record = {**two_colors(tmp_path, (30, 30)), "image_labels": []}
    settings = ("INPUT.RANDOM_FLIP", "none", "INPUT.S2C.LONGEST_SIDE", (32, 32))
    mapper = mapper_of(tiny_cfg(*PLAIN, *settings), tmp_path / "two")
    for _ in range(8):
        assert float(mapper(record)["image"][0, 0, 0]) > 200


def test_ids_are_gap_free_unless_absent_ones_are_wanted(
    tiny_cfg: Callable[..., Any], photos: Path
) -> None:
    (record,) = [r for r in weak_records("s2c_tiny") if r["image_id"] == "a"]
    crops = ("INPUT.S2C.CROP_SIZE", 8, "INPUT.S2C.LONGEST_SIDE", (64, 64))
    seen: dict[bool, set[tuple[int, ...]]] = {}
    for absent in (False, True):
        cfg = tiny_cfg(*PLAIN, *crops, "MODEL.S2C.SSC_ABSENT_LOGITS", absent)
        mapper = mapper_of(cfg, photos / "masks")
        np.random.seed(1)
        views = [mapper(dict(record))["segments"] for _ in range(30)]
        seen[absent] = {tuple(view.unique().tolist()) for view in views}
    # Here no pixel is without a segment, and a crop in one segment still has it: never 0.
    assert all(ids == tuple(range(1, len(ids) + 1)) for ids in seen[False])
    assert any(ids != tuple(range(1, len(ids) + 1)) for ids in seen[True])


def test_colors_are_jittered_and_draws_are_repeatable(
    tiny_cfg: Callable[..., Any], photos: Path
) -> None:
    record = weak_records("s2c_tiny")[0]
    views = []
    for probability in (0.0, 1.0, 1.0):
        changes = ("INPUT.S2C.JITTER_PROB", probability, "INPUT.S2C.GRAY_PROB", 0.0)
        mapper = mapper_of(tiny_cfg(*changes), photos / "masks")
        np.random.seed(4)
        torch.manual_seed(4)
        views.append(mapper(dict(record)))
    assert views[1]["image"].equal(views[2]["image"])
    assert not views[0]["image"].equal(views[1]["image"])
    assert views[0]["segments"].equal(views[1]["segments"])
    gray = mapper_of(tiny_cfg("INPUT.S2C.GRAY_PROB", 1.0), photos / "masks")(dict(record))
    inside = gray["image"][:, gray["valid"]]
    assert inside[0].equal(inside[1]) and inside[0].equal(inside[2])


def test_channels_come_in_the_order_of_the_model(
    tiny_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    record = {**two_colors(tmp_path, (32, 32)), "image_labels": []}
    settings = ("INPUT.RANDOM_FLIP", "none", "INPUT.S2C.LONGEST_SIDE", (32, 32))
    mapper = mapper_of(tiny_cfg(*PLAIN, *settings, "INPUT.FORMAT", "BGR"), tmp_path / "two")
    image = mapper(record)["image"]
    assert float(image[2, 0, 0]) > 200 and float(image[0, 0, 0]) < 50  # red on the left


def test_a_pickled_mapper_opens_its_store_itself(
    tiny_cfg: Callable[..., Any], photos: Path
) -> None:
    mapper = mapper_of(tiny_cfg(), photos / "masks")
    record = weak_records("s2c_tiny")[0]
    mapper(dict(record))
    again = pickle.loads(pickle.dumps(mapper))
    assert again._store is None and again(dict(record))["segments"].shape == (32, 32)


def test_the_test_view_is_the_whole_image(tiny_cfg: Callable[..., Any], photos: Path) -> None:
    mapper = S2CMapper(tiny_cfg("INPUT.MIN_SIZE_TEST", 48), False)
    view = mapper(dict(weak_records("s2c_tiny")[0]))
    assert view["image"].shape == (3, 48, 64) and "segments" not in view


def test_what_is_missing_is_named(tiny_cfg: Callable[..., Any], photos: Path) -> None:
    with pytest.raises(ValueError, match="MODEL.S2C.MASKS is empty"):
        S2CMapper(tiny_cfg(), True)
    without = S2CMapper(tiny_cfg("MODEL.S2C.LOSS_WEIGHTS", (1.0, 0.0, 1.0)), True)
    assert "segments" not in without(dict(weak_records("s2c_tiny")[0]))
    mapper = mapper_of(tiny_cfg(), photos / "masks")
    record = weak_records("s2c_tiny")[0]
    with pytest.raises(KeyError, match="image 'z' is not in the store of masks"):
        mapper({**record, "image_id": "z"})
    with pytest.raises(ValueError, match="the data set says 9 x 64"):
        mapper({**record, "height": 9})
    with ProposalStoreWriter(photos / "other") as writer:
        writer.add(record["image_id"], [], image_size=(5, 5))
    with pytest.raises(ValueError, match=r"are of \(5, 5\), the image is \(48, 64\)"):
        mapper_of(tiny_cfg(), photos / "other")(dict(record))
    with pytest.raises(ValueError, match="INPUT.S2C has CROP_SIZE 0"):
        S2CMapper(tiny_cfg("INPUT.S2C.CROP_SIZE", 0), False)
    with pytest.raises(ValueError, match="RANDOM_FLIP is 'vertical'"):
        mapper_of(tiny_cfg("INPUT.RANDOM_FLIP", "vertical"), photos / "masks")
    with pytest.raises(ValueError, match="holds 'annotations'"):
        mapper({**DatasetCatalog.get("s2c_tiny")[0], "annotations": []})
