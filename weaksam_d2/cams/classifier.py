"""The interface of a CAM network and the meta architecture that trains one on image tags."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.data import ImageTags

__all__ = [
    "CAM_NETWORK_REGISTRY",
    "CamNetwork",
    "ImageClassifier",
    "ViewMaps",
    "check_pretrained",
]

CAM_NETWORK_REGISTRY = Registry("CAM_NETWORK")
CAM_NETWORK_REGISTRY.__doc__ = """Networks that classify images and give activation maps.

Called as ``obj(cfg)``; the result is a :class:`CamNetwork`.
"""


class ViewMaps(NamedTuple):
    """Activation maps of one view for m classes, at the network's map resolution.

    coarse and fine are float (m, h, w) and not negative; cross is float (m or 1, heads, blocks,
    h, w), one row where the network has no class tokens. A kind the network lacks is None.
    """

    coarse: Tensor
    fine: Tensor | None = None
    cross: Tensor | None = None


class CamNetwork(nn.Module):
    """A multi-label classifier whose decisions can be located in the image.

    Subclasses set ``kinds`` and, if they give cross-attention maps, ``heads`` and ``blocks``
    (1-based), and implement the two methods.
    """

    kinds: tuple[str, ...] = ("coarse",)  # of "coarse", "fine", "cross"
    heads: int = 0
    blocks: tuple[int, ...] = ()
    cross_rows: str = "class"  # a row of cross is of a "class", or the only one is of the "image"
    normalize: str = "minmax"  # how maps are made comparable: "minmax" | "max" (ops.fuse_scales)
    pretrained: bool = False  # built with weights that classify: there is nothing left to train

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """Class logits (N, C), one tensor for each loss term; the first one predicts.

        images: normalized float (N, 3, H, W). sizes: valid (height, width) of each image within
        the padded batch; None: all of it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement class_logits")

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Maps of one view, normalized float (3, H, W), for the int64 classes (m,)."""
        raise NotImplementedError(f"{type(self).__name__} does not implement maps")


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """A CAM network with a multi-label loss, trained on image-level labels alone.

    A batch item holds ``image`` (uint8 or float (3, H, W) in ``input_format``, 0-255) and, in
    training, ``image_labels`` (int64 (m,), contiguous classes); it may hold ``negative_labels``
    and ``unknown_labels``. The loss is the mean over the classes that are known.
    """

    classifies_images = True  # evaluated by its tags

    @configurable
    def __init__(
        self,
        *,
        network: CamNetwork,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        open_labels: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.input_format = input_format
        self.open_labels = open_labels
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL`` and ``INPUT.FORMAT``."""
        return {
            "network": CAM_NETWORK_REGISTRY.get(cfg.MODEL.CLASSIFIER.NETWORK)(cfg),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "open_labels": cfg.MODEL.CLASSIFIER.OPEN_LABELS,
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_mean.device

    def normalize(self, image: Tensor) -> Tensor:
        """A (3, H, W) image of 0-255 on the model's device, mean subtracted, divided by std."""
        return (image.to(self.device, torch.float32) - self.pixel_mean) / self.pixel_std

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Training: ``{"loss_multilabel": scalar}``; else ``[{"class_logits": (C,)}]``."""
        views = [self.normalize(item["image"]) for item in batched_inputs]
        images = ImageList.from_tensors(views)
        terms = self.network.class_logits(images.tensor, images.image_sizes)
        if not self.training:
            return [{"class_logits": row} for row in terms[0]]
        tags = [self._tags(item) for item in batched_inputs]
        targets = torch.stack([tag.multi_hot(self.num_classes) for tag in tags])
        known = torch.stack([tag.known(self.num_classes) for tag in tags])
        losses = [_known_cross_entropy(term.float(), targets, known) for term in terms]
        return {"loss_multilabel": torch.stack(losses).sum()}

    def _tags(self, item: dict[str, Any]) -> ImageTags:
        if "image_labels" not in item:
            raise ValueError(
                f"image {item.get('image_id')!r} of the training batch has no 'image_labels'; "
                "set INPUT.MAPPER_NAME to a mapper that gives them (WeakDatasetMapper)"
            )
        tags = ImageTags.from_sample(
            item, num_classes=self.num_classes, open_labels=self.open_labels
        )
        return tags.to(self.device)


def _known_cross_entropy(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Mean binary cross entropy of (N, C) logits over the classes that are known (bool (N, C))."""
    if bool(known.all()):
        return F.binary_cross_entropy_with_logits(logits, targets)
    total = F.binary_cross_entropy_with_logits(logits, targets, known.float(), reduction="sum")
    return total / known.sum().clamp(min=1)


def check_pretrained(model: nn.Module) -> None:
    """Refuse a model that is still to be trained: built without weights that classify.

    A network of which every parameter is frozen has nothing to train and passes.

    Raises:
        ValueError: an untrained classifier, or a model that is none.
    """
    network = getattr(model, "network", None)
    if isinstance(network, CamNetwork) and (
        network.pretrained or not any(p.requires_grad for p in network.parameters())
    ):
        return
    raise ValueError(
        f"{type(network or model).__name__} is not trained: give a checkpoint of "
        "tools/train_net.py (--input, MODEL.WEIGHTS), or published weights of a whole classifier "
        "in MODEL.CLASSIFIER.WEIGHTS (ImageNet weights only initialize)"
    )
