"""How alike the boxes of one image look to a frozen network (WeakSAM, Fig. 6)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import transforms as T
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from tqdm import tqdm

from weaksam_d2.data import read_image
from weaksam_d2.evaluation import StoreView, bootstrap_intervals
from weaksam_d2.ops import mean_cosine_similarity
from weaksam_d2.visualization import Bars, Lines, Series

__all__ = ["RoIFeatures", "measure_similarity", "similarity_panels", "similarity_table"]

POOLED = 7  # cells of RoIAlign along a side
CHUNK = 500  # boxes whose pooled cells are in memory at once


class RoIFeatures:
    """Features of boxes: a frozen backbone's map, RoIAlign 7 x 7, mean over the cells."""

    def __init__(
        self,
        backbone: Backbone,
        feature: str,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        resize: T.Augmentation | None = None,
        image_format: str = "RGB",
        device: str = "cpu",
    ) -> None:
        """Take the map ``feature`` of ``backbone``; ``resize`` makes the network's image."""
        self._device = torch.device(device)
        self._backbone = backbone.eval().to(self._device)
        self._feature = feature
        self._mean, self._std = (
            torch.tensor(list(v), device=self._device).view(-1, 1, 1)
            for v in (pixel_mean, pixel_std)
        )
        self._resize = resize
        self.image_format = image_format
        stride = self._backbone.output_shape()[feature].stride
        self._pooler = ROIPooler(POOLED, (1 / stride,), sampling_ratio=0, pooler_type="ROIAlignV2")

    @classmethod
    def from_config(cls, cfg: Any) -> "RoIFeatures":
        """Build ``MODEL.BACKBONE`` with its weights; the map is ``MODEL.ROI_HEADS.IN_FEATURES``.

        Raises:
            ValueError: no weights, a checkpoint that does not cover the backbone, several maps.
        """
        names = tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        if len(names) != 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES is {names}; features of boxes can only be compared "
                "if all are of one map: take a config with one, as configs/Base-WSOD-Lite0.yaml"
            )
        if not (cfg.MODEL.WEIGHTS or cfg.MODEL.TIMM.WEIGHTS):
            raise ValueError(
                "MODEL.WEIGHTS and MODEL.TIMM.WEIGHTS are empty; features of random weights say "
                "nothing about proposals"
            )
        # Checkpoints of whole models have the backbone under this name.
        holder = nn.ModuleDict({"backbone": build_backbone(cfg)})
        _WholeCheckpointer(holder).load(cfg.MODEL.WEIGHTS)
        side = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        return cls(
            holder["backbone"],
            names[0],
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            resize=T.ResizeShortestEdge([side[0]] * 2, side[1]),
            image_format=cfg.INPUT.FORMAT,
            device=cfg.MODEL.DEVICE,
        )

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Callable[[np.ndarray], Tensor]:
        """Look at an image (H, W, 3) uint8; gives boxes (n, 4) XYXY -> features (n, channels)."""
        size = image.shape[:2]
        if self._resize is not None:
            image = self._resize.get_transform(image).apply_image(image)
        scale = np.array([image.shape[1] / size[1], image.shape[0] / size[0]] * 2, np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        normalized = (pixels.to(self._device).float() - self._mean) / self._std
        batch = ImageList.from_tensors([normalized], self._backbone.size_divisibility)
        feature = self._backbone(batch.tensor)[self._feature]

        @torch.no_grad()
        def of_boxes(boxes: np.ndarray) -> Tensor:
            scaled = torch.from_numpy(np.reshape(boxes, (-1, 4)) * scale).to(self._device)
            parts = [
                self._pooler([feature], [Boxes(part)]).mean(dim=(2, 3))
                for part in scaled.split(CHUNK)
            ]
            return torch.cat(parts) if len(scaled) else feature.new_zeros(0, feature.shape[1])

        return of_boxes


class _WholeCheckpointer(DetectionCheckpointer):
    """Refuses a checkpoint that leaves a part of the model as it was."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        missing = [k for k in incompatible.missing_keys if not k.endswith("num_batches_tracked")]
        missing += [str(row[0]) for row in incompatible.incorrect_shapes]
        missing = list(dict.fromkeys(missing))
        if missing:
            raise ValueError(
                f"MODEL.WEIGHTS do not cover {len(missing)} parameters of the backbone, the first "
                f"are {missing[:3]}; give weights of this backbone"
            )
        return incompatible


def measure_similarity(
    records: Sequence[Mapping[str, Any]],
    views: Sequence[StoreView],
    features: RoIFeatures,
    *,
    read: Callable[[str, str], np.ndarray] = read_image,
) -> dict[str, np.ndarray]:
    """Mean cosine similarity of the boxes of each image, float64 (I,), by the name of the view.

    An image with fewer than two boxes has no pair: NaN. Each image is read and encoded once; only
    these numbers are kept.
    """
    values = {view.name: np.full(len(records), np.nan) for view in views}
    bar: Iterable[Any] = tqdm(records, desc="similarity", unit="image", mininterval=1.0)
    for row, record in enumerate(bar):
        of_boxes = features(read(record["file_name"], features.image_format))
        for view in views:
            boxes = view.boxes(str(record["image_id"]))
            values[view.name][row] = float(mean_cosine_similarity(of_boxes(boxes)))
    return values


def similarity_table(
    values: Mapping[str, np.ndarray], *, resamples: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Mean over images for each kind of proposals, in [-1, 1], with 95 % intervals over images.

    Gives ``similarity``, ``images`` (with a pair of boxes) and, for all but the first kind,
    ``difference`` to the first one over the images that both have a value for; with resamples
    also ``<figure>_low`` and ``<figure>_high``. A mean over no image is NaN.
    """
    table: dict[str, dict[str, float]] = {}
    first = next(iter(values.values()))
    for place, (name, own) in enumerate(values.items()):
        rows = {"similarity": own} | ({"difference": own - first} if place else {})
        table[name] = {"images": float(np.isfinite(own).sum())}
        for figure, numbers in rows.items():
            seen = numbers[np.isfinite(numbers)]
            table[name][figure] = float(seen.mean()) if len(seen) else float("nan")
        if resamples:
            low, high = _intervals(np.stack(list(rows.values()), axis=1), resamples, seed)
            for column, figure in enumerate(rows):
                table[name][f"{figure}_low"] = float(low[column])
                table[name][f"{figure}_high"] = float(high[column])
    return table


def _intervals(values: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of the means of columns (I, F) over the rows that have a value."""
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0.0)

    def means(counts: np.ndarray) -> np.ndarray:
        total = counts @ seen
        return np.divide(counts @ filled, total, out=np.full(len(total), np.nan), where=total > 0)

    return bootstrap_intervals(means, len(values), resamples=resamples, seed=seed)


def similarity_panels(
    values: Mapping[str, np.ndarray], table: Mapping[str, Mapping[str, float]]
) -> list[Bars | Lines]:
    """Bars with intervals, and how the images are spread."""
    names = list(table)
    has_interval = all("similarity_low" in row for row in table.values())
    ends = {
        end: [table[name][f"similarity_{end}"] for name in names] if has_interval else []
        for end in ("low", "high")
    }
    means = [table[name]["similarity"] for name in names]
    label = "cosine similarity within an image"
    lines = []
    for name, own in values.items():
        found = np.sort(own[np.isfinite(own)])
        share = 100 * np.arange(1, len(found) + 1) / max(len(found), 1)
        lines.append(Series(name, found.tolist(), share.tolist()))
    return [
        Bars(names, means, label, **ends),
        Lines(lines, label, "images with at most this (%)", y_range=(0, 100)),
    ]
