"""Rendered scenes: exact boxes, fair colors, honest occlusion, equal bytes."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from weaksam_d2.data import register_scenes, weak_records
from weaksam_d2.data.datasets.scenes import (
    SCENE_CLASSES,
    SCENE_SETS,
    Scene,
    SceneSet,
    render_scene,
    write_scenes,
)
from weaksam_d2.data.datasets.scenes.compose import (
    MAX_HEAD_LOSS,
    MAX_LOSS,
    _allowed,
    _draw_categories,
    _Placed,
)
from weaksam_d2.data.datasets.scenes.objects import class_parts


@pytest.fixture(scope="module")
def sample() -> list[Scene]:
    return [render_scene(5, index, scale=(0.2, 0.7)) for index in range(30)]


def test_an_image_is_a_function_of_seed_and_index(sample: list[Scene]) -> None:
    again = render_scene(5, 17, scale=(0.2, 0.7))
    assert np.array_equal(again.image, sample[17].image)
    other = render_scene(6, 17, scale=(0.2, 0.7))
    assert other.image.shape != again.image.shape or not np.array_equal(other.image, again.image)


def test_sizes_and_counts_are_in_range(sample: list[Scene]) -> None:
    for scene in sample:
        height, width, _ = scene.image.shape
        assert scene.image.dtype == np.uint8
        assert 256 <= max(height, width) <= 320
        assert 0.74 <= min(height, width) / max(height, width) <= 1
        assert 1 <= len(scene.objects) <= 4


def test_boxes_are_tight_around_visible_pixels(sample: list[Scene]) -> None:
    for item in (item for scene in sample for item in scene.objects):
        x1, y1, x2, y2 = item.box
        inside = np.zeros_like(item.visible)
        inside[y1:y2, x1:x2] = True
        assert not (item.visible & ~inside).any()
        edges = (
            item.visible[y1],
            item.visible[y2 - 1],
            item.visible[:, x1],
            item.visible[:, x2 - 1],
        )
        assert all(edge.any() for edge in edges)
        assert not (item.head & ~item.visible).any()
        assert not (item.visible & ~item.full).any()


def test_no_pixel_belongs_to_two_objects(sample: list[Scene]) -> None:
    for scene in sample:
        assert sum(item.visible.astype(int) for item in scene.objects).max() <= 1


def test_occlusion_stays_within_its_limits(sample: list[Scene]) -> None:
    items = [item for scene in sample for item in scene.objects]
    assert min(item.visible_share for item in items) >= 1 - MAX_LOSS
    assert min(item.head_visible_share for item in items) >= 1 - MAX_HEAD_LOSS
    assert min(item.visible_share for item in items) < 1  # it does occur


@pytest.mark.parametrize(
    ("covered", "head_covered", "allowed"),
    [(40, 0, True), (41, 0, False), (20, 6, True), (20, 7, False)],
)
def test_the_rule_of_occlusion(covered: int, head_covered: int, allowed: bool) -> None:
    full, head, cover = (np.zeros((10, 10), dtype=bool) for _ in range(3))
    full[:] = True
    head.flat[:10] = True
    cover.flat[:head_covered] = True
    cover.flat[10 : 10 + covered - head_covered] = True
    item = _Placed(0, full, head, full.copy(), head_share=0.1, head_pixels=10)
    assert _allowed(item, cover) is allowed
    assert _allowed(item)


def test_heads_are_small_parts(sample: list[Scene]) -> None:
    shares = [item.head_share for scene in sample for item in scene.objects]
    assert min(shares) >= 0.08 and max(shares) <= 0.20
    assert len(np.unique(np.round(shares, 3))) > 5


def test_two_classes_share_each_body_and_partners_never_do() -> None:
    bodies = Counter(class_parts(c)[1] for c in range(6))
    assert sorted(bodies.values()) == [2, 2, 2]
    assert len({class_parts(c)[0] for c in range(6)}) == 6
    assert all(class_parts(c)[1] != class_parts(c ^ 1)[1] for c in range(6))


def test_colors_do_not_give_the_class_away() -> None:
    """A nearest-neighbor classifier of color histograms of objects stays under 35 %."""
    features, labels = [], []
    for index in range(80):
        scene = render_scene(7, index)
        for item in scene.objects:
            pixels = (scene.image[item.visible] // 64).astype(int)
            codes = pixels @ np.array([16, 4, 1])
            features.append(np.bincount(codes, minlength=64) / len(codes))
            labels.append(item.category)
    x, y = np.array(features), np.array(labels)
    half = len(x) // 2
    means = np.stack([x[:half][y[:half] == c].mean(0) for c in range(6)])
    by_mean = np.abs(x[half:, None] - means).sum(-1).argmin(1)
    by_neighbor = y[:half][np.abs(x[half:, None] - x[None, :half]).sum(-1).argmin(1)]
    for guess in (by_mean, by_neighbor):
        assert (guess == y[half:]).mean() < 0.35


@pytest.mark.parametrize(("bias", "low", "high"), [(0.0, 0.08, 0.26), (1.0, 1.0, 1.0)])
def test_bias_makes_partners_follow(bias: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    lists = [_draw_categories(rng, bias) for _ in range(300)]
    pairs = [b == a ^ 1 for row in lists for a, b in zip(row, row[1:], strict=False)]
    assert low <= np.mean(pairs) <= high


def test_out_of_range_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="bias 1.5"):
        render_scene(0, 0, bias=1.5)
    with pytest.raises(ValueError, match="scale"):
        render_scene(0, 0, scale=(0.8, 0.2))
    with pytest.raises(ValueError, match="'scene'.*tiny"):
        register_scenes("x", root="y", split="train", scenes="scene")
    with pytest.raises(ValueError, match="no split 'test'"):
        register_scenes("x", root="y", split="test")


def test_files_are_equal_byte_for_byte_and_describe_the_images(tmp_path: Path) -> None:
    arguments = {"count": 4, "seed": 9, "bias": 0.5, "scale": (0.2, 0.6)}
    for name in ("a", "b"):
        write_scenes(tmp_path / name, **arguments)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    data = json.loads((tmp_path / "a" / "annotations.json").read_text())
    with (tmp_path / "a" / "tags.csv").open() as file:
        tags = {row["image"]: row["tags"].split(";") for row in csv.DictReader(file)}
    names = {c["id"]: c["name"] for c in data["categories"]}
    for image in data["images"]:
        own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        assert set(tags[image["file_name"]]) == {names[a["category_id"]] for a in own}
    for annotation in data["annotations"]:
        mask = annotation["segmentation"]
        assert mask_util.toBbox(mask).tolist() == annotation["bbox"]
        assert int(mask_util.area(mask)) == annotation["area"]
        assert mask_util.area(annotation["head_mask"]) < annotation["area"]
        assert mask_util.area(annotation["full_mask"]) >= annotation["area"]
    with pytest.raises(FileExistsError):
        write_scenes(tmp_path / "a", **arguments)


def test_a_set_is_rendered_when_first_loaded(tmp_path: Path) -> None:
    three = SceneSet("three", train=3, val=2)
    register_scenes("scenes_three_val", root=tmp_path, split="val", scenes=three)
    folder = tmp_path / "three_val"
    assert not folder.exists()
    weak = weak_records("scenes_three_val_weak")
    annotated = DatasetCatalog.get("scenes_three_val_eval")
    assert [r["image_id"] for r in weak] == [r["image_id"] for r in annotated] == ["1", "2"]
    for tags, boxes in zip(weak, annotated, strict=True):
        assert set(tags["image_labels"]) == {a["category_id"] for a in boxes["annotations"]}
        assert "annotations" not in tags
        assert all({"bbox", "segmentation"} <= set(a) for a in boxes["annotations"])
    assert MetadataCatalog.get("scenes_three_val_weak").thing_classes == list(SCENE_CLASSES)
    written = (folder / "scenes.json").stat().st_mtime_ns
    weak_records("scenes_three_val_weak")
    assert (folder / "scenes.json").stat().st_mtime_ns == written
    assert json.loads((folder / "scenes.json").read_text())["bias"] == 0


def test_splits_have_disjoint_seeds_and_the_named_sizes() -> None:
    sizes = {name: tuple(s.counts.values()) for name, s in SCENE_SETS.items()}
    assert sizes["tiny"][0] == 24
    assert sizes["demo"] == (120, 60)
    assert (sizes["small"], sizes["full"]) == ((400, 200), (4000, 1000))
    seeds = [s.arguments(split)["seed"] for s in SCENE_SETS.values() for split in s.counts]
    assert max(seeds[::2]) < 1_000_000 <= min(seeds[1::2])


def test_builtin_names_are_there_and_stock_names_untouched() -> None:
    names = set(DatasetCatalog.list())
    assert {
        "scenes_demo_train_weak", "scenes_demo_val_eval", "voc_2007_trainval_weak",
        "voc_2012_val_eval", "coco_2017_train_weak", "coco_2014_val_eval",
    } <= names  # fmt: skip
    assert MetadataCatalog.get("voc_2007_test_weak").evaluation_name == "voc_2007_test_eval"
    assert len(MetadataCatalog.get("coco_2017_val_weak").thing_classes) == 80
    assert MetadataCatalog.get("voc_2007_train").get("registered_from") is None
