"""The tagger that is trained: CLIP's image encoder, a norm and a linear layer."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.cams import CLIP, load_clip

from .hub import weights_source
from .views import tag_views

__all__ = ["CLIPTagger", "build_clip"]

_LAYERS = 12  # of the random network that has the sizes of ViT-B/16


@META_ARCH_REGISTRY.register()
class CLIPTagger(nn.Module):
    """Softmax over the classes of an image, trained on (image, class) pairs.

    ``LayerNorm(D) -> Linear(D, C)`` on CLIP's projected image embedding, the whole image encoder
    learns. A batch item holds ``image`` (float or uint8 (3, H, W), RGB, 0-255; in training all of
    one size) and, in training, ``image_labels``. An image of several classes is so many pairs: its
    loss is the mean over them. In evaluation an image is shown in the six views of ``tag_views``,
    and gives ``class_logits`` (C,), the logarithm of the best probability of each class.

    Source: BoxSAM, Sec. 4 and Table 4; wsss.md, Sec. 7.2.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """clip: its text encoder is dropped, its image encoder becomes trainable."""
        super().__init__()
        for unused in ("text_model", "text_projection", "logit_scale"):
            delattr(clip.model, unused)
        self.clip = clip.requires_grad_(True)
        width = int(clip.model.visual_projection.out_features)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL``, ``INPUT.FORMAT`` and ``BOXSAM.TAGGER.CLIP``.

        Raises:
            ValueError: another format than RGB, which is CLIP's.
        """
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; CLIP's images are RGB")
        return {
            "clip": build_clip(cfg.BOXSAM.TAGGER.CLIP),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    @property
    def view_side(self) -> int:
        """Pixels of a view's side in evaluation."""
        return int(self.clip.model.config.vision_config.image_size)

    def logits(self, images: Tensor) -> Tensor:
        """Class logits (N, C) of images float (N, 3, H, W), RGB, 0-255."""
        tokens = self.clip.embed((images - self.pixel_mean) / self.pixel_std)
        for layer in self.clip.layers:
            attended, _ = self.clip.attend(layer, layer.layer_norm1(tokens))
            tokens = self.clip.finish(layer, tokens, attended)
        model = self.clip.model
        embedded = model.visual_projection(model.vision_model.post_layernorm(tokens[:, 0]))
        return self.classifier(self.norm(embedded))

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """``{"loss_tags"}`` in training; else a list of ``{"class_logits": (C,)}``."""
        if not self.training:
            return [{"class_logits": self._tagged(item["image"])} for item in batched_inputs]
        images = torch.stack([item["image"].to(self.device).float() for item in batched_inputs])
        losses = []
        for row, item in zip(self.logits(images), batched_inputs, strict=True):
            tags = item.get("image_labels")
            if tags is None or not len(tags):
                raise ValueError(
                    f"image {item.get('image_id')!r} of the training batch has no class; "
                    "CLIPTagger learns from (image, class) pairs"
                )
            tags = torch.as_tensor(tags, device=row.device)
            losses.append(F.cross_entropy(row[None].float().expand(len(tags), -1), tags))
        return {"loss_tags": torch.stack(losses).mean()}

    def _tagged(self, image: Tensor) -> Tensor:
        pixels = image.detach().round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        views = tag_views(pixels.cpu().numpy(), self.view_side).to(self.device)
        return self.logits(views).float().log_softmax(dim=1).amax(dim=0)


def build_clip(source: str) -> CLIP:
    """CLIP from ``BOXSAM.TAGGER.CLIP``; "" is a random image encoder of the sizes of ViT-B/16."""
    if source:
        return load_clip(weights_source(source))
    import transformers

    text = {"num_hidden_layers": 1, "vocab_size": 8, "bos_token_id": 6, "eos_token_id": 7}
    config = transformers.CLIPConfig(
        vision_config={"patch_size": 16, "num_hidden_layers": _LAYERS}, text_config=text
    )
    return CLIP(transformers.CLIPModel(config).float(), tokenizer=None)
