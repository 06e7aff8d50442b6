"""EdgeBoxes, classic proposals to compare with (Zitnick and Dollár, ECCV 2014)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import Prompts, Proposals

from .build import PROPOSAL_METHOD_REGISTRY
from .filter import clean_boxes

__all__ = ["EdgeBoxes", "boxes_of_edges", "edge_boxes_model"]

_KEY = "WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL"
_PLACE = (
    "EdgeBoxes needs the forest of structured edges, which OpenCV's wheels do not hold: get "
    "testdata/cv/ximgproc/model.yml.gz of the repository opencv/opencv_extra (or train one with "
    f"opencv_contrib's structured_edge_training) and write its path into {_KEY}"
)
_SEQUENCES = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")
_OPTIONS = ("stride", "shrinkNumber", "patchSize", "patchInnerSize", "numberOfTrees")
# OpenCV's limits of a box: 1000 square pixels, sides 3 to 1. A thinner image cannot hold one, and
# some of them make its edge detector fail.
_MIN_SIDE = 18  # pixels, below sqrt(1000 / 3)
_NO_LIMIT = 1_000_000  # boxes; OpenCV takes 0 literally


@PROPOSAL_METHOD_REGISTRY.register()
class EdgeBoxes:
    """OpenCV's EdgeBoxes with its own settings, best first; needs no prompts.

    ``detector`` is a ``cv2.ximgproc.StructuredEdgeDetection``. Scores are those of EdgeBoxes, not
    probabilities.
    """

    source_names = ("EdgeBoxes",)

    @configurable
    def __init__(self, *, detector: Any, step: float = 1 / 16, max_boxes: int = 2000) -> None:
        """step and max_boxes as in clean_boxes."""
        self.detector = detector
        self.step = step
        self.max_boxes = max_boxes

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``WEAKSAM.PROPOSALS``; reads the model file."""
        node = cfg.WEAKSAM.PROPOSALS
        detector = _load_detector(edge_boxes_model(cfg))
        return {"detector": detector, "step": node.DEDUPLICATE, "max_boxes": node.MAX_PER_IMAGE}

    def __call__(
        self, image: np.ndarray, prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Proposals:
        """Boxes of an RGB uint8 image (H, W, 3); prompts and grid are not looked at."""
        size = (image.shape[0], image.shape[1])
        boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        if min(size) >= _MIN_SIDE:
            edges = self.detector.detectEdges(np.float32(image) / np.float32(255))
            orientation = self.detector.computeOrientation(edges)
            thin = self.detector.edgesNms(edges, orientation)
            boxes, scores = boxes_of_edges(thin, orientation, max_boxes=self.max_boxes)
        cleaned, index = clean_boxes(
            torch.from_numpy(boxes), size, step=self.step, max_boxes=self.max_boxes
        )
        return Proposals(
            boxes=cleaned.numpy(),
            image_size=size,
            scores=scores[index.numpy()],
            stability=None,
            sources=np.zeros(len(cleaned), np.uint8),
            source_names=self.source_names,
        )


def boxes_of_edges(
    edges: np.ndarray, orientation: np.ndarray, *, max_boxes: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes that enclose many contours wholly, by falling score.

    edges: float32 (H, W), thinned, about 0 to 1; orientation: float32 (H, W), radians in [0, pi].
    max_boxes: 0 is no limit. Returns float32 (n, 4) XYXY half-open pixels and scores float32 (n,).

    Source: Zitnick and Dollár, ECCV 2014, Sec. 3.
    """
    search = _ximgproc().createEdgeBoxes(maxBoxes=max_boxes or _NO_LIMIT)
    found, values = search.getBoundingBoxes(edges, orientation)
    if len(found) == 0:  # OpenCV then gives a tuple and None
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    boxes = np.asarray(found, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.asarray(values, np.float32).reshape(-1)
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]


def edge_boxes_model(cfg: Any) -> Path:
    """The model file of ``WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL``, for loading and for its hash.

    Raises:
        ValueError: no file is named. FileNotFoundError: it is not there.
    """
    name = cfg.WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL
    if not name:
        raise ValueError(f"{_KEY} is empty. {_PLACE}")
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{_KEY} {name!r} is no file. {_PLACE}")
    return path


def _load_detector(path: Path) -> Any:
    """OpenCV's edge detector; ValueError for a file that is no such model."""
    module = _ximgproc()
    _check_model(path)
    return module.createStructuredEdgeDetection(str(path))


def _check_model(path: Path) -> None:
    """OpenCV divides by the number of trees unseen: a file without it would end the process."""
    import cv2

    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError) as error:
        raise ValueError(f"{path} cannot be read as OpenCV YAML ({error}). {_PLACE}") from error
    options = storage.getNode("options")
    bad = [key for key in _OPTIONS if options.empty() or not options.getNode(key).real() > 0]
    bad += [key for key in _SEQUENCES if not storage.getNode(key).isSeq()]
    storage.release()
    if bad:
        raise ValueError(f"{path} is no model of structured edges: it lacks {bad}. {_PLACE}")


def _ximgproc() -> Any:
    """``cv2.ximgproc``; OpenCV is an optional package."""
    try:
        import cv2

        return cv2.ximgproc
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"WEAKSAM.PROPOSALS.METHOD EdgeBoxes needs cv2.ximgproc ({error}); run 'pip "
            "uninstall opencv-python opencv-python-headless', then 'pip install "
            "opencv-contrib-python-headless'"
        ) from error
