"""S2C as a meta architecture: one classifier, three losses (Kweon and Yoon, CVPR 2024)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.cams import ImageClassifier
from weaksam_d2.data import ImageTags
from weaksam_d2.sam import SamBackend, build_sam_backend

from .cpm import SelfLabelRule, cpm_loss, multi_scale_cams, self_label
from .network import S2C, Maps, pooled
from .prompting import PromptRule, prompt_sam
from .ssc_loss import segment_contrast_loss

__all__ = ["S2CClassifier", "S2CSettings"]

LOSSES = ("loss_cls", "loss_ssc", "loss_cpm")


@dataclass(frozen=True)
class S2CSettings:
    """What the losses of S2C are: see the keys of ``MODEL.S2C``.

    Raises:
        ValueError: a value that is not allowed.
    """

    prompt: PromptRule = PromptRule()
    label: SelfLabelRule = SelfLabelRule()
    weights: Sequence[float] = (1.0, 1.0, 1.0)
    ssc_level: str = "feature"
    ssc_scale: float = 2.0
    ssc_absent_logits: bool = False
    cpm_scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0)
    sam_every: int = 1

    def __post_init__(self) -> None:
        if len(self.weights) != len(LOSSES) or min(self.weights) < 0:
            raise ValueError(
                f"MODEL.S2C.LOSS_WEIGHTS is {tuple(self.weights)}, expected three numbers of at "
                "least 0, for L_CLS, L_SSC and L_CPM"
            )
        if self.ssc_level not in ("feature", "logit"):
            raise ValueError(f"MODEL.S2C.SSC_LEVEL is {self.ssc_level!r}, allowed: feature, logit")
        if self.sam_every < 1:
            raise ValueError(f"MODEL.S2C.SAM_EVERY must be at least 1, got {self.sam_every}")
        if not self.cpm_scales or min(self.cpm_scales) <= 0:
            raise ValueError(
                f"MODEL.S2C.CPM_SCALES is {tuple(self.cpm_scales)}, expected positive factors"
            )

    @classmethod
    def from_config(cls, cfg: Any) -> "S2CSettings":
        """Read ``MODEL.S2C``."""
        node = cfg.MODEL.S2C
        return cls(
            prompt=PromptRule(
                count=node.PEAKS,
                rule=node.PEAK_RULE,
                radius=node.PEAK_RADIUS,
                tau=node.TAU,
                kind=node.CPM_PROMPT,
                mask_index=node.SAM_MASK_INDEX,
            ),
            label=SelfLabelRule(
                tau=node.TAU if node.CPM_BACKGROUND_TAU else None,
                confidence=node.CPM_CONF,
                sam_confidence=node.SAM_CONF,
                background=node.CPM_BACKGROUND,
            ),
            weights=tuple(node.LOSS_WEIGHTS),
            ssc_level=node.SSC_LEVEL,
            ssc_scale=node.SSC_SCALE,
            ssc_absent_logits=node.SSC_ABSENT_LOGITS,
            cpm_scales=tuple(node.CPM_SCALES),
            sam_every=node.SAM_EVERY,
        )


class _FirstUse:
    """A heavy object that is made when it is first asked for, and is no part of the model.

    It is neither registered nor copied or pickled with the model: not in checkpoints, not in the
    optimizer, not in distributed training.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: list[Any] = []

    def __call__(self) -> Any:
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "_FirstUse":
        return _FirstUse(self._make)

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": []}


def build_segmenter(cfg: Any) -> SamBackend:
    """The backend of ``WEAKSAM.SAM``.

    Raises:
        ValueError: ``CPM_PROMPT`` is "mask" and the backend takes no mask as prompt.
    """
    sam = build_sam_backend(cfg)
    if cfg.MODEL.S2C.CPM_PROMPT == "mask" and not hasattr(sam, "decode_with_mask"):
        raise ValueError(
            f"MODEL.S2C.CPM_PROMPT is 'mask', and WEAKSAM.SAM.BACKEND {cfg.WEAKSAM.SAM.BACKEND} "
            "takes no mask as prompt; use SegmentAnything, or 'points'"
        )
    return sam


def cpm_start(cfg: Any) -> int:
    """The iteration at which CPM starts: ``CPM_START_EPOCH`` passes over ``DATASETS.TRAIN``."""
    node = cfg.MODEL.S2C
    length = node.EPOCH_ITERS
    if not length and node.CPM_START_EPOCH:
        images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
        length = math.ceil(images / (cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATION_STEPS))
    return int(node.CPM_START_EPOCH * length)


@META_ARCH_REGISTRY.register()
class S2CClassifier(ImageClassifier):
    """A classifier that learns from SAM: its segments (SSC) and its answers to prompts (CPM).

    A training item holds ``image`` (3, H, W), ``image_labels`` (m,), for SSC ``segments`` int
    (H, W), 0 for no segment, and may hold ``valid`` bool (H, W), False where a crop has no image.
    Losses: ``loss_cls``, ``loss_ssc``, ``loss_cpm``. In evaluation it is an ImageClassifier.
    """

    @configurable
    def __init__(
        self,
        *,
        settings: S2CSettings,
        sam: Callable[[], SamBackend],
        cpm_start: Callable[[], int],
        **kwargs: Any,
    ) -> None:
        """Take ``ImageClassifier``'s arguments and those of the losses.

        Args:
            sam: makes the segmenter, ``cpm_start`` tells the first iteration with CPM; both are
                called at the first training step (a classifier that only gives maps needs neither,
                and a missing checkpoint ends a training at once).

        Raises:
            ValueError: a network that is no S2C.
        """
        super().__init__(**kwargs)
        if not isinstance(self.network, S2C):
            raise ValueError(
                f"S2CClassifier needs MODEL.CLASSIFIER.NETWORK S2C, got "
                f"{type(self.network).__name__}"
            )
        self.settings = settings
        self._sam = _FirstUse(sam)
        self._cpm_start = _FirstUse(cpm_start)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL``, ``WEAKSAM.SAM`` and ``DATASETS.TRAIN``."""
        return {
            **super().from_config(cfg),
            "settings": S2CSettings.from_config(cfg),
            "sam": partial(build_segmenter, cfg),
            "cpm_start": partial(cpm_start, cfg),
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Training: the three losses; else ``[{"class_logits": (C,)}]``.

        Between the steps of CPM (``SAM_EVERY``) there is no ``loss_cpm``: logs take a median of
        many steps, which zeros would hide.

        Raises:
            FloatingPointError: a loss is not finite; names iteration, images and the three values.
            ValueError: an item without image_labels, or without segments where SSC is on.
        """
        if not self.training:
            return super().forward(batched_inputs)
        images = ImageList.from_tensors([self.normalize(x["image"]) for x in batched_inputs])
        size = (images.tensor.shape[-2], images.tensor.shape[-1])
        tags = [self._tags(item) for item in batched_inputs]
        maps = self.network(images.tensor)
        with torch.autocast(self.device.type, enabled=False):
            maps = Maps(maps.features.float(), maps.activations.float())
            values = (
                self._classification_loss(maps, size, images.image_sizes, tags),
                self._ssc_loss(maps, size, batched_inputs),
                self._cpm_loss(maps, images.tensor, batched_inputs, tags),
            )
        losses = {
            name: weight * value
            for name, weight, value in zip(LOSSES, self.settings.weights, values, strict=True)
            if value is not None
        }
        _check_finite(losses, batched_inputs)
        return losses

    def _classification_loss(
        self,
        maps: Maps,
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        tags: Sequence[ImageTags],
    ) -> Tensor:
        """Mean over the classes that are known, of the batch."""
        logits = pooled(maps.activations, size, sizes)
        targets = torch.stack([tag.multi_hot(self.num_classes) for tag in tags])
        known = torch.stack([tag.known(self.num_classes) for tag in tags]).float()
        total = F.binary_cross_entropy_with_logits(logits, targets, known, reduction="sum")
        return total / known.sum().clamp(min=1)

    def _ssc_loss(
        self, maps: Maps, size: tuple[int, int], items: Sequence[dict[str, Any]]
    ) -> Tensor:
        if not self.settings.weights[1]:
            return maps.features.sum() * 0.0
        for item in items:
            if "segments" not in item:
                raise ValueError(
                    f"image {item.get('image_id')!r} of the training batch has no 'segments'; set "
                    "INPUT.MAPPER_NAME S2CMapper, or the weight of L_SSC to 0"
                )
        segments = torch.stack([_padded(item["segments"].int(), size) for item in items])
        at_logits = self.settings.ssc_level == "logit"
        return segment_contrast_loss(
            maps.activations if at_logits else maps.features,
            segments.to(self.device),
            scale=self.settings.ssc_scale,
            absent_logits=self.settings.ssc_absent_logits,
        )

    def _cpm_loss(
        self,
        maps: Maps,
        images: Tensor,
        items: Sequence[dict[str, Any]],
        tags: Sequence[ImageTags],
    ) -> Tensor | None:
        """0 if CPM is off or has not begun; None between its steps."""
        if not self.settings.weights[2]:
            return maps.activations.sum() * 0.0
        self._sam()  # at the first step: a missing checkpoint shows now, not epochs later
        late = get_event_storage().iter - self._cpm_start()
        if late < 0:
            return maps.activations.sum() * 0.0
        if late % self.settings.sam_every:
            return None
        classes = [tag.present for tag in tags]
        labels = self.self_labels(images, items, classes)
        background = self.settings.label.background
        return cpm_loss(maps.activations, labels, classes, background=background)

    @torch.no_grad()
    def self_labels(
        self, images: Tensor, items: Sequence[dict[str, Any]], classes: Sequence[Tensor]
    ) -> Tensor:
        """The self-labels int64 (N, H, W) of normalized images (N, 3, H, W): see ``self_label``.

        The network is in evaluation mode meanwhile (no dropout).
        """
        size = (images.shape[-2], images.shape[-1])
        valid = torch.stack([_valid(item, size) for item in items]).to(self.device)
        training = self.network.training
        self.network.eval()
        try:
            cams = multi_scale_cams(
                lambda views: self.network(views).activations,
                images,
                classes,
                scales=self.settings.cpm_scales,
                valid=valid,
            )
        finally:
            self.network.train(training)
        with torch.autocast(self.device.type, enabled=False):
            labels = [
                self._label_of(item, cam, present, inside)
                for item, cam, present, inside in zip(items, cams, classes, valid, strict=True)
            ]
        return torch.stack(labels)

    def _label_of(
        self, item: dict[str, Any], cams: Tensor, classes: Tensor, valid: Tensor
    ) -> Tensor:
        """One image's self-label; SAM sees its pixels as they are after augmentation."""
        pixels = item["image"].clamp(0, 255).round().to(torch.uint8).cpu()
        height, width = pixels.shape[-2:]
        array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        rgb = array[..., ::-1].copy() if self.input_format == "BGR" else array
        own = cams[:, :height, :width]
        found = prompt_sam(self._sam(), rgb, own, rule=self.settings.prompt)
        label = self_label(
            own,
            found.masks & valid[:height, :width],
            found.logits,
            classes,
            rule=self.settings.label,
            valid=valid[:height, :width],
        )
        return _padded(label, (cams.shape[-2], cams.shape[-1]), fill=255)


def _padded(values: Tensor, size: tuple[int, int], *, fill: int = 0) -> Tensor:
    """(h, w) values in the upper left corner of a map of this size."""
    height, width = values.shape
    return F.pad(values, (0, size[1] - width, 0, size[0] - height), value=fill)


def _valid(item: dict[str, Any], size: tuple[int, int]) -> Tensor:
    """Bool (H, W) of a padded batch: where the item has an image."""
    given = item.get("valid", torch.ones(item["image"].shape[-2:], dtype=torch.bool))
    return _padded(given.to(torch.uint8), size).bool()


def _check_finite(losses: dict[str, Tensor], items: Sequence[dict[str, Any]]) -> None:
    if bool(torch.isfinite(torch.stack(list(losses.values())).detach()).all()):
        return
    values = {name: float(value.detach()) for name, value in losses.items()}
    images = ", ".join(str(item.get("image_id", "?")) for item in items)
    raise FloatingPointError(
        f"iteration {get_event_storage().iter}: {values} on images {images}; lower "
        "SOLVER.BASE_LR, or look at these images and their masks"
    )
