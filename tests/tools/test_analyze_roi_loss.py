"""tools/analyze_roi_loss.py, run by path on a small drawn data set with a random detector."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from weaksam_d2.artifacts import PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.engine import cli

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / "configs" / "quick_schedules" / "faster_rcnn_lite0_roi_drop.yaml"
HEIGHT, WIDTH = 96, 128
CAT, DOG = (10, 10, 60, 60), (70, 20, 120, 90)
NETWORK = ("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.OUT_INDICES", "(2, 3)")
NETWORK += ("MODEL.TIMM.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.DEVICE", "cpu")


def write_images(root: Path, ids: list[str]) -> None:
    """Every image: a cat and a dog; the pseudo boxes find the cat, the dog's is the image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Main" / "all.txt").write_text("\n".join(ids) + "\n")
    images, annotations = [], []
    for place, image_id in enumerate(ids):
        pixels = np.random.default_rng(place).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{image_id}.jpg")
        rows = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in (("cat", CAT), ("dog", DOG))
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        (root / "Annotations" / f"{image_id}.xml").write_text(
            f"<annotation>{size}{rows}</annotation>"
        )
        images.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}
        )
        for category, box in ((1, [10, 10, 50, 50]), (2, [0, 0, WIDTH, HEIGHT])):
            annotations.append({"image_id": image_id, "category_id": category, "bbox": box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    info = {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}
    truth = PseudoGroundTruth(images, annotations, categories, {"weaksam": info})
    write_pseudo_gt(root / "pseudo_gt.json", truth)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    write_images(tmp_path / "voc", ["a", "b", "c"])
    cfg = cli.base_config()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(list(NETWORK))
    torch.manual_seed(0)
    checkpointer = DetectionCheckpointer(build_model(cfg), str(tmp_path))
    checkpointer.save("early", iteration=0)
    known = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(place: Path, monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    data = f"(('roi_loss', '{place / 'voc'}', 'all', 2007, 'cat dog'),)"
    truth = f"('{place / 'voc' / 'pseudo_gt.json'}',)"
    options = (*NETWORK, "DATASETS.VOC", data, "DATASETS.TRAIN", "('roi_loss_weak',)")
    options += ("DATASETS.PSEUDO_GT_TRAIN", truth, "MODEL.WEIGHTS", place / "early.pth")
    tool = REPO / "tools" / "analyze_roi_loss.py"
    line = [tool, "--config-file", CONFIG, *words, *options]
    monkeypatch.setattr(sys, "argv", [str(word) for word in line])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(tool), run_name="__main__")
    assert isinstance(left.value.code, int)
    return left.value.code


def test_regions_are_binned_with_the_errors_of_their_pseudo_boxes(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, plot = place / "roi_loss.json", place / "roi_loss.png"
    flags = ("--output", output, "--plot", plot, "--images", 2, "--bins", 5)
    assert run(place, monkeypatch, *flags) == 0
    found = json.loads(output.read_text())
    facts = found["facts"]
    assert (facts["images"], facts["iteration"], facts["iou"]) == (2, 0, 0.7)
    cls = found["foreground"]["cls"]
    assert sum(cls["count"]) == found["regions"]["foreground"] > 0
    assert sum(found["background"]["cls"]["count"]) == found["regions"]["background"] > 0
    # Some regions belong to cats, whose boxes are right, and some to the image as a "dog".
    assert 0 < found["error_rate"]["wrong"] < 1
    assert all(r is None or 0 <= r <= 1 for r in cls["wrong"]["error_rate"])
    with Image.open(plot) as picture:
        assert picture.width > 500
    assert "cls wrong" in capsys.readouterr().out
    # The same seed samples the same; a file that is there is replaced only if asked for.
    assert run(place, monkeypatch, *flags) == 2
    assert run(place, monkeypatch, *flags, "--overwrite") == 0
    assert json.loads(output.read_text()) == found
    assert run(place, monkeypatch, *flags[:4], "--bins", 0) == 2
