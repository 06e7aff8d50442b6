"""DINO's network: normalized images and their true sizes in, predictions of all layers out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .decoder import MLP, Decoder
from .denoising import EMPTY_SLOT, Denoising
from .encoder import Encoder
from .neck import Neck
from .outputs import DINOOutput, LayerPrediction
from .positions import inverse_sigmoid, pixel_embedding
from .pyramid import make_pyramid
from .query_selection import select_queries

__all__ = ["DINONetwork", "NetworkSettings"]

_PRIOR = 0.01  # score of every class before training
_BOX_LAYERS = 3


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the network; the keys of ``MODEL.DINO`` of the same name say more."""

    num_classes: int
    in_features: tuple[str, ...] = ("res3", "res4", "res5")
    num_levels: int = 4
    hidden_dim: int = 256
    ffn_dim: int = 2048
    num_heads: int = 8
    num_points: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.0
    num_queries: int = 900
    pos_temperature: float = 20.0
    pos_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden_dim % (4 * self.num_heads):
            raise ValueError(
                f"MODEL.DINO.HIDDEN_DIM must be a multiple of 4 * MODEL.DINO.NUM_HEADS, got "
                f"{self.hidden_dim} and {self.num_heads}"
            )
        for key in ("encoder_layers", "decoder_layers", "num_queries", "num_classes"):
            if getattr(self, key) < 1:
                raise ValueError(f"DINO needs {key} of 1 or more, got {getattr(self, key)}")

    @classmethod
    def from_config(cls, cfg: Any) -> "NetworkSettings":
        """Read ``MODEL.DINO`` and ``MODEL.ROI_HEADS.NUM_CLASSES``."""
        node = cfg.MODEL.DINO
        return cls(
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            in_features=tuple(node.IN_FEATURES),
            num_levels=node.NUM_LEVELS,
            hidden_dim=node.HIDDEN_DIM,
            ffn_dim=node.FFN_DIM,
            num_heads=node.NUM_HEADS,
            num_points=node.NUM_POINTS,
            encoder_layers=node.ENCODER_LAYERS,
            decoder_layers=node.DECODER_LAYERS,
            dropout=node.DROPOUT,
            num_queries=node.NUM_QUERIES,
            pos_temperature=node.POS_TEMPERATURE,
            pos_offset=node.POS_OFFSET,
        )


class DINONetwork(nn.Module):
    """Backbone, neck, encoder, selection of queries, decoder, and their heads.

    There is one class head and one box head for each decoder layer and, last, for the encoder.
    Names of the parameters: extras.md, Sec. 1.4, right column.

    Source: extras.md, Sec. 1.1; DINO (Zhang et al., ICLR 2023).
    """

    def __init__(self, *, backbone: Backbone, settings: NetworkSettings) -> None:
        """Make everything after the backbone.

        Raises:
            ValueError: settings that do not fit each other or the backbone.
            ImportError: transformers is missing.
        """
        super().__init__()
        from .layers import LayerSettings

        self.settings = settings
        width = settings.hidden_dim
        layer = LayerSettings(
            width=width,
            ffn=settings.ffn_dim,
            heads=settings.num_heads,
            points=settings.num_points,
            levels=settings.num_levels,
            dropout=settings.dropout,
        )
        self.backbone = backbone
        channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
        self.neck = Neck(channels, settings.in_features, levels=settings.num_levels, width=width)
        self.encoder = Encoder(layer, settings.encoder_layers)
        self.decoder = Decoder(layer, settings.decoder_layers)
        self.level_embeds = nn.Parameter(torch.randn(settings.num_levels, width))
        self.enc_output, self.enc_output_norm = nn.Linear(width, width), nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.enc_output.weight)
        self.tgt_embed = nn.Embedding(settings.num_queries, width)
        self.label_enc = nn.Embedding(settings.num_classes, width)
        heads = settings.decoder_layers + 1
        self.class_embed = nn.ModuleList(
            _class_head(width, settings.num_classes) for _ in range(heads)
        )
        # Every box begins at its reference.
        self.bbox_embed = nn.ModuleList(
            MLP(*[width] * _BOX_LAYERS, 4, zero_last=True) for _ in range(heads)
        )

    def predict(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        denoising: Denoising | None = None,
    ) -> DINOOutput:
        """Predictions for a batch.

        images: (N, 3, H, W) normalized, padded right and below. image_sizes: true (height, width).
        denoising: queries to put in front of the others; nothing else changes by them.
        """
        levels = self.neck(self.backbone(images))
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        padded = (images.shape[-2], images.shape[-1])
        pyramid = make_pyramid(shapes, image_sizes, padded, images.device)
        places = pixel_embedding(
            pyramid,
            self.settings.hidden_dim,
            temperature=self.settings.pos_temperature,
            offset=self.settings.pos_offset,
        )
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        memory = self.encoder(tokens, places + pyramid.by_cell(self.level_embeds), pyramid)
        selected = select_queries(
            memory,
            pyramid,
            embed=nn.Sequential(self.enc_output, self.enc_output_norm),
            class_head=self.class_embed[-1],
            box_head=self.bbox_embed[-1],
            count=self.settings.num_queries,
        )
        content, references, attention = self._queries(selected, denoising)
        states, boxes = self.decoder(
            content, references, memory, pyramid, self.bbox_embed[:-1], attention
        )
        logits = [
            head(state).float() for head, state in zip(self.class_embed[:-1], states, strict=True)
        ]
        return _output(
            logits, boxes, selected, 0 if denoising is None else denoising.boxes.shape[1]
        )

    def _queries(
        self, selected: LayerPrediction, denoising: Denoising | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Content (N, P + Q, D), references (N, P + Q, 4), who sees whom (P + Q, P + Q)."""
        references = selected.boxes.detach()
        content = self.tgt_embed.weight.expand(len(references), -1, -1)
        if denoising is None:
            return content, references, None
        noised = inverse_sigmoid(denoising.boxes).sigmoid()
        # An empty slot says nothing to its group.
        present = (denoising.targets != EMPTY_SLOT)[..., None]
        classes = self.label_enc(denoising.classes).masked_fill(~present, 0.0)
        return (
            torch.cat([classes, content], dim=1),
            torch.cat([noised, references], dim=1),
            denoising.attention_mask(self.settings.num_queries),
        )


def _class_head(width: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(width, num_classes)
    nn.init.constant_(head.bias, -math.log(1 / _PRIOR - 1))
    return head


def _output(
    logits: list[Tensor], boxes: list[Tensor], selected: LayerPrediction, noised: int
) -> DINOOutput:
    """Part the first ``noised`` queries from the others."""
    pairs = list(zip(logits, boxes, strict=True))
    return DINOOutput(
        layers=[LayerPrediction(c[:, noised:], b[:, noised:]) for c, b in pairs],
        encoder=selected,
        denoising=[LayerPrediction(c[:, :noised], b[:, :noised]) for c, b in pairs]
        if noised
        else [],
    )
