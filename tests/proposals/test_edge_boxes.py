"""EdgeBoxes: a forest of one tree finds the drawn objects; its file, its hash and its errors."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import ProposalStore, sha256_file
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.engine.stages.image_stages import Placement, proposals_stage
from weaksam_d2.engine.stages.stage import declared_config
from weaksam_d2.proposals import build_proposal_method, edge_boxes_model
from weaksam_d2.proposals.edge_boxes import boxes_of_edges

DISC = (15, 25, 66, 76)
BAR = (100, 30, 141, 101)
OPTIONS = {
    "stride": 2,
    "shrinkNumber": 2,
    "patchSize": 4,
    "patchInnerSize": 4,
    "numberOfGradientOrientations": 4,
    "gradientSmoothingRadius": 0,
    "regFeatureSmoothingRadius": 2,
    "ssFeatureSmoothingRadius": 8,
    "gradientNormalizationRadius": 4,
    "selfsimilarityGridSize": 2,
    "numberOfTrees": 1,
    "numberOfTreesToEvaluate": 1,
}


def write_forest(path: Path, **changes: Any) -> Path:
    """One tree of one question: is the gradient strong here? Then the whole patch is edge."""
    cells = (OPTIONS["patchSize"] // OPTIONS["shrinkNumber"]) ** 2
    options = {**OPTIONS, **changes}
    sequences = {
        "childs": [2, 0, 0],
        "featureIds": [3 * cells, 0, 0],  # after the three color channels
        "thresholds": [0.05, 0.0, 0.0],
        "edgeBoundaries": [0, 0, 0, 16],
        "edgeBins": list(range(16)),
    }
    lines = ["%YAML 1.2", "---", "options:"]
    lines += [f"   {key}: {value}" for key, value in options.items()]
    for key, values in sequences.items():
        lines += [f"{key}:", f"   - {values}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def drawn() -> np.ndarray:
    """A red disc and a blue bar on a green ground, 120 x 160."""
    image = np.full((120, 160, 3), (60, 120, 60), np.uint8)
    cv2.circle(image, (40, 50), 25, (210, 40, 40), -1)
    cv2.rectangle(image, (100, 30), (140, 100), (40, 40, 200), -1)
    return image


def best_iou(boxes: np.ndarray, box: tuple[float, ...]) -> float:
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    own = (box[2] - box[0]) * (box[3] - box[1])
    return float((inter / (areas + own - inter)).max())


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.WEAKSAM.PROPOSALS.METHOD = "EdgeBoxes"
    cfg.WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL = str(write_forest(tmp_path / "model.yml"))
    return cfg


def test_drawn_objects_are_found_best_score_first(cfg: CfgNode) -> None:
    proposals = build_proposal_method(cfg)(drawn(), None, None)
    # The crude forest smears an edge over its patch, so boxes lie a few pixels outside.
    assert best_iou(proposals.boxes, DISC) > 0.7
    assert best_iou(proposals.boxes, BAR) > 0.65
    assert proposals.source_names == ("EdgeBoxes",) and not proposals.sources.any()
    assert len(proposals.scores) == len(proposals.boxes) > 20
    assert (np.diff(proposals.scores) <= 0).all()
    assert (proposals.boxes >= 0).all()
    assert (proposals.boxes[:, 2] <= 160).all() and (proposals.boxes[:, 3] <= 120).all()
    cfg.WEAKSAM.PROPOSALS.MAX_PER_IMAGE = 5
    few = build_proposal_method(cfg)(drawn(), None, None)
    np.testing.assert_array_equal(few.boxes, proposals.boxes[:5])


def test_boxes_come_from_the_edges_and_their_orientation_alone() -> None:
    gray = cv2.cvtColor(drawn(), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    edges = np.hypot(dx, dy)
    edges /= edges.max()
    orientation = np.mod(np.arctan2(dy, dx), np.pi).astype(np.float32)
    boxes, scores = boxes_of_edges(edges, orientation)
    assert boxes.dtype == scores.dtype == np.float32
    assert best_iou(boxes, BAR) > 0.75
    shifted, _ = boxes_of_edges(np.roll(edges, 7, axis=1), np.roll(orientation, 7, axis=1))
    assert best_iou(shifted, (BAR[0] + 7, BAR[1], BAR[2] + 7, BAR[3])) > 0.75
    assert len(boxes_of_edges(edges, orientation, max_boxes=3)[0]) == 3


@pytest.mark.parametrize("size", [(1, 1), (2, 2000), (17, 300), (18, 18), (40, 50)])
def test_flat_and_thin_images_have_no_box_and_are_no_error(
    cfg: CfgNode, size: tuple[int, int]
) -> None:
    proposals = build_proposal_method(cfg)(np.zeros((*size, 3), np.uint8), None, None)
    assert proposals.boxes.shape == (0, 4) and proposals.scores.shape == (0,)
    assert proposals.image_size == size


def test_a_missing_model_is_named_with_its_remedy(cfg: CfgNode, tmp_path: Path) -> None:
    node = cfg.WEAKSAM.PROPOSALS
    node.EDGE_BOXES_MODEL = ""
    with pytest.raises(ValueError, match=r"EDGE_BOXES_MODEL is empty.*model\.yml\.gz"):
        build_proposal_method(cfg)
    node.EDGE_BOXES_MODEL = str(tmp_path / "none.yml")
    with pytest.raises(FileNotFoundError, match=r"none\.yml' is no file.*model\.yml\.gz"):
        edge_boxes_model(cfg)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not yaml", "cannot be read as OpenCV YAML"),
        ("%YAML 1.2\n---\nfoo: 1\n", "lacks .*'numberOfTrees', 'childs'"),
        (None, r"lacks \['numberOfTrees'\]"),  # OpenCV would divide by zero
    ],
)
def test_a_file_that_is_no_model_is_refused_before_opencv_reads_it(
    cfg: CfgNode, text: str | None, problem: str
) -> None:
    path = Path(cfg.WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL)
    if text is None:
        write_forest(path, numberOfTrees=0)
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        build_proposal_method(cfg)


def test_the_path_of_the_model_does_not_enter_the_hash_of_the_settings(cfg: CfgNode) -> None:
    before = declared_config(cfg, "proposals")
    cfg.WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL = "elsewhere.yml"
    assert declared_config(cfg, "proposals") == before
    assert before["WEAKSAM.PROPOSALS.METHOD"] == "EdgeBoxes"


def test_an_opencv_without_contrib_modules_is_named(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(ImportError, match="pip install opencv-contrib-python-headless"):
        build_proposal_method(cfg)


def test_the_model_is_an_input_of_the_stage_by_the_hash_of_its_content(
    cfg: CfgNode, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), drawn()[:, :, ::-1])
    record = {"image_id": "a", "file_name": str(tmp_path / "a.png"), "height": 120, "width": 160}
    DatasetCatalog.register("edge_boxes_weak", lambda: [{**record, "image_labels": [0]}])
    MetadataCatalog.get("edge_boxes_weak").set(thing_classes=["disc"], evaluator_type="none")
    try:
        manifest = proposals_stage(cfg, "edge_boxes_weak", None, Placement(tmp_path / "out"))
    finally:
        DatasetCatalog.remove("edge_boxes_weak")
        MetadataCatalog.remove("edge_boxes_weak")
    assert manifest is not None
    model = Path(cfg.WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL)
    (row,) = manifest.inputs
    assert (row["name"], row["sha256"]) == ("edge_boxes", sha256_file(model))
    store = ProposalStore.open(tmp_path / "out")
    assert store.check() == [] and (np.diff(store["a"].scores) <= 0).all()
