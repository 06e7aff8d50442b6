"""Masks, boxes and labels follow the image through resizing, cutting and filling up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util
from weaksam_d2.projects.mask2former import Mask2FormerMapper

from weaksam_d2.artifacts import PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.data import build_test_loader, build_train_loader, register_tagged_folder
from weaksam_d2.ops import encode_rle

HEIGHT, WIDTH = 60, 90


@pytest.fixture()
def picture(tmp_path: Path) -> dict[str, Any]:
    """Two disjoint shapes that are brighter than their surroundings, one in each channel."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    shapes = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    shapes[0, 5:30, 10:40] = True
    shapes[1, 30:55, 50:85] = True
    pixels[shapes[0], 0], pixels[shapes[1], 1] = 200, 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    labels = np.full((HEIGHT, WIDTH), 0, dtype=np.uint8)
    labels[shapes[0]], labels[shapes[1]], labels[:, 88:] = 1, 2, 255
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette([value for k in range(256) for value in (k * 7 % 256, 0, 255 - k)])
    indexed.save(tmp_path / "labels.png")
    first = {"size": [HEIGHT, WIDTH], "counts": encode_rle(shapes[:1])[0].decode()}
    corners = [50.0, 30.0, 85.0, 30.0, 85.0, 55.0, 50.0, 55.0]
    rows = [
        {"bbox": [10, 5, 40, 30], "bbox_mode": 0, "category_id": 1, "segmentation": first},
        {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 2, "segmentation": [corners]},
        {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0, "iscrowd": 1},
    ]
    return {
        **{"file_name": str(tmp_path / "a.png"), "image_id": "a"},
        **{"height": HEIGHT, "width": WIDTH, "annotations": rows},
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }


def mapper(tiny_cfg: Callable[..., Any], *changes: Any, train: bool = True) -> Mask2FormerMapper:
    return Mask2FormerMapper(tiny_cfg(*changes), train)


@pytest.mark.parametrize("seed", range(6))
def test_masks_follow_their_pixels(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any], seed: int
) -> None:
    np.random.seed(seed)
    given = mapper(tiny_cfg, "INPUT.LSJ.SIZE", 96, "INPUT.LSJ.SCALE", (0.5, 2.5))(picture)
    image, found = given["image"].numpy(), given["instances"]
    assert image.shape == (3, 96, 96) and found.image_size == (96, 96)
    assert "annotations" not in given and "sem_seg" not in given
    channels = {1: 0, 2: 1}
    for box, mask, label in zip(
        found.gt_boxes.tensor.tolist(),
        found.gt_masks.tensor.numpy(),
        found.gt_classes.tolist(),
        strict=True,
    ):
        bright = (image[channels[label]] > 100) & (image[2] < 100)  # the filling is gray
        both, either = (bright & mask).sum(), (bright | mask).sum()
        assert both / either > 0.85 or either < 60
        ys, xs = np.nonzero(mask)
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_what_fills_the_square_up_belongs_to_no_object(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    given = mapper(tiny_cfg, "INPUT.LSJ.SCALE", (0.5, 0.5), "INPUT.RANDOM_FLIP", "none")(picture)
    assert len(given["instances"]) == 2
    masks = given["instances"].gt_masks.tensor
    assert not masks[:, 21:].any() and not masks[:, :, 32:].any() and masks.any()
    assert (given["image"][:, 22:] == 128).all() and (given["image"][:, :, 32:] == 128).all()


def test_an_object_that_is_cut_off_is_left_out(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    one = mapper(tiny_cfg, "INPUT.LSJ.SCALE", (3.0, 3.0), "INPUT.RANDOM_FLIP", "none")
    seen = set()
    for seed in range(8):
        np.random.seed(seed)
        seen.add(tuple(one(picture)["instances"].gt_classes.tolist()))
    assert seen - {(1, 2)}  # 64 of 192 by 128 pixels


def test_every_way_to_write_a_mask_is_read(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    whole = mapper(tiny_cfg, "INPUT.LSJ.SIZE", 90, "INPUT.LSJ.SCALE", (1.0, 1.0))
    row = picture["annotations"][0]
    pixels = mask_util.decode(row["segmentation"])
    flat = pixels.flatten(order="F")  # begins with a zero
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    ways = {
        "bytes": mask_util.encode(np.asfortranarray(pixels)),
        "list": {"size": [HEIGHT, WIDTH], "counts": runs},
        "text": row["segmentation"],
    }
    areas = set()
    for outline in ways.values():
        picture["annotations"] = [{**row, "segmentation": outline}]
        areas.add(int(whole(picture)["instances"].gt_masks.tensor.sum()))
    assert areas == {25 * 30}


def test_an_image_without_objects_is_kept(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    picture["annotations"] = []
    found = mapper(tiny_cfg)(picture)["instances"]
    assert len(found) == 0 and found.gt_masks.tensor.shape == (0, 64, 64)


@pytest.mark.parametrize("outline", [None, [], {"size": [5, 5], "counts": "0"}])
def test_an_object_without_a_mask_is_named(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any], outline: Any
) -> None:
    if isinstance(outline, dict):
        outline = mask_util.encode(np.zeros((5, 5), dtype=np.uint8, order="F"))
    picture["annotations"][0]["segmentation"] = outline
    with pytest.raises(ValueError, match="image 'a'"):
        mapper(tiny_cfg)(picture)


def test_labels_are_indices_and_255_where_there_is_none(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    one = mapper(
        tiny_cfg, "MODEL.MASK2FORMER.TASK", "semantic", "INPUT.RANDOM_FLIP", "none",
        "INPUT.LSJ.SCALE", (0.5, 0.5),
    )  # fmt: skip
    given = one(picture)
    labels, image = given["sem_seg"].numpy(), given["image"].numpy()
    assert "instances" not in given and set(np.unique(labels)) == {0, 1, 2, 255}
    assert (labels[22:] == 255).all() and (labels[:, 32:] == 255).all()
    for label, channel in ((1, 0), (2, 1)):
        bright = (image[channel] > 100) & (image[2] < 100)
        assert (bright & (labels == label)).sum() / (bright | (labels == label)).sum() > 0.8
    del picture["sem_seg_file_name"]
    with pytest.raises(ValueError, match="image 'a'.*sem_seg_file_name"):
        one(picture)


def test_evaluation_sees_the_whole_image_and_nothing_else(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    changes = ("INPUT.MIN_SIZE_TEST", 30, "MODEL.MASK2FORMER.TASK", "semantic")
    given = mapper(tiny_cfg, *changes, train=False)(picture)
    assert given["image"].shape == (3, 30, 45)
    assert not {"annotations", "sem_seg", "instances"} & set(given)
    assert "annotations" in picture and "sem_seg_file_name" in picture


def test_the_same_seed_gives_the_same_view_and_the_record_stays(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any]
) -> None:
    one, views = mapper(tiny_cfg), []
    for _ in range(2):
        np.random.seed(4)
        views.append(one(picture)["image"])
    assert views[0].equal(views[1]) and len(picture["annotations"]) == 3


def test_other_flips_are_refused(tiny_cfg: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="RANDOM_FLIP is 'vertical'"):
        mapper(tiny_cfg, "INPUT.RANDOM_FLIP", "vertical")


def test_the_loaders_take_pseudo_ground_truth_and_whole_images(
    tiny_cfg: Callable[..., Any], picture: dict[str, Any], tmp_path: Path
) -> None:
    known = set(DatasetCatalog.list())
    (tmp_path / "tags.csv").write_text("a.png,cat;dog\n")
    register_tagged_folder(
        "one", image_root=tmp_path, tags=tmp_path / "tags.csv", classes=["cat", "dog"]
    )
    info = {"weaksam": {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}}
    images = [{"id": "a", "file_name": "a.png", "height": HEIGHT, "width": WIDTH}]
    mask = picture["annotations"][0]["segmentation"]
    rows = [{"image_id": "a", "category_id": 2, "bbox": [10, 5, 30, 25], "segmentation": mask}]
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    write_pseudo_gt(tmp_path / "gt.json", PseudoGroundTruth(images, rows, classes, info))
    cfg = tiny_cfg(
        *("DATASETS.TRAIN", ("one",), "DATASETS.PSEUDO_GT_TRAIN", (str(tmp_path / "gt.json"),)),
        *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 1, "SEED", 1),
        *("INPUT.LSJ.SIZE", 90, "INPUT.LSJ.SCALE", (1.0, 1.0), "INPUT.MIN_SIZE_TEST", 30),
    )
    try:
        (given,) = next(iter(build_train_loader(cfg)))
        (whole,) = next(iter(build_test_loader(cfg, "one")))
    finally:
        for name in set(DatasetCatalog.list()) - known:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert given["instances"].gt_classes.tolist() == [1]
    assert int(given["instances"].gt_masks.tensor.sum()) == 25 * 30
    assert whole["image"].shape == (3, 30, 45) and "instances" not in whole
