"""MCTformer: multi-class tokens (CVPR 2022) and its extension (wsss.md, Sec. 3.4)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from detectron2.config import configurable
from torch import Tensor

from weaksam_d2.ops.class_tokens import rank_weighted_mean

from .class_token_network import ClassTokenNetwork, Clues, channel_table
from .class_token_vit import BlockAttention, ClassTokenViT, build_vit
from .classifier import CAM_NETWORK_REGISTRY
from .cnn_patches import build_patches

__all__ = ["MCTformer"]

_VERSIONS = ("V2", "V1", "Plus")
_RANK_DECAY = 0.996  # of the k-th best patch in the image score of version Plus
_PLUS_IMAGE_SIZE = 448  # pixels; the side that the published Plus weights have positions for


@CAM_NETWORK_REGISTRY.register()
class MCTformer(ClassTokenNetwork):
    """Classes from tokens and patches; maps from their attention, heads averaged.

    Seed: class attention summed over the last blocks, times the positive patch scores (V2); the
    attention alone (V1, which has no patch head, and whose coarse map it also is); the square
    root of the product (Plus). The fine map is the seed spread by the patch attention of all
    blocks.
    """

    @configurable
    def __init__(
        self,
        *,
        vit: ClassTokenViT,
        channels: Sequence[int],
        version: Literal["V2", "V1", "Plus"] = "V2",
        layers: int = 3,
        cross_blocks: tuple[int, int] | None = None,
        weights: str = "",
    ) -> None:
        """Build the classifier.

        Args:
            vit: without head for V1; with separate positions for Plus.
            channels: channel of each contiguous class.
            version: see above.
            layers: number of last blocks whose class attention is summed.
            cross_blocks: see :class:`ClassTokenNetwork`.
            weights: published ones (see ``load_published``).

        Raises:
            ValueError: a version that does not exist or does not fit the transformer, or more
                layers than it has.
        """
        super().__init__(vit=vit, channels=channels, cross_blocks=cross_blocks)
        _check_version(version)
        if (vit.head is None) != (version == "V1") or vit.separate_positions != (version == "Plus"):
            raise ValueError(f"the transformer given is not of MCTformer's version {version}")
        if not 1 <= layers <= vit.depth:
            raise ValueError(
                f"MODEL.CLASSIFIER.MCTFORMER.LAYERS is {layers}, expected 1 to {vit.depth}"
            )
        self.version, self.layers = version, layers
        self.checkpoint_kind = f"MCTformer {version}"
        self.load_weights(weights)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.CLASSIFIER`` and ``WEAKSAM.CAMS``."""
        node = cfg.MODEL.CLASSIFIER
        version = node.MCTFORMER.VERSION
        _check_version(version)
        plus = version == "Plus"
        network = build_vit(
            node.VIT,
            drop_path=node.DROP_PATH,
            image_size=_PLUS_IMAGE_SIZE if plus else 0,
            depth=node.DEPTH,
        )
        vit = ClassTokenViT(
            vit=network,
            num_channels=channel_table(node.CHANNELS, cfg.MODEL.ROI_HEADS.NUM_CLASSES)[1],
            pos_interp=node.POS_INTERP,
            head=version != "V1",
            separate_positions=plus,
            patches=build_patches(cfg, network.embed_dim),
        )
        return {
            "vit": vit,
            "version": version,
            "layers": node.MCTFORMER.LAYERS,
            "weights": node.WEIGHTS,
            **cls.common_arguments(cfg),
        }

    def loss_terms(self, images: Tensor) -> list[Tensor]:
        """Logits of the class tokens and, with a head, of the patches.

        NOTE: the contrastive losses between class tokens that MCTformer+ adds are left out.
        """
        tokens = self.vit.tokens(images)
        terms = [self.vit.token_logits(tokens)]
        if self.version != "V1":
            scores = self.vit.patch_scores(tokens, self.vit.grid(images)).flatten(2)
            plus = self.version == "Plus"
            terms.append(rank_weighted_mean(scores, _RANK_DECAY) if plus else scores.mean(dim=2))
        return terms

    def clues(self, seen: Sequence[BlockAttention], rows: Tensor, scores: Tensor | None) -> Clues:
        """Class attention of the last blocks with the patch scores, spread by all blocks."""
        attention = rows[-self.layers :].mean(dim=1).sum(dim=0)
        weights = rows.new_full(rows.shape[:2], 1 / rows.shape[1])
        if scores is None:
            return Clues(attention, attention, weights)
        if self.version == "Plus":
            return Clues(scores, torch.sqrt(attention / self.layers * scores), weights)
        return Clues(scores, attention * scores, weights)


def _check_version(version: str) -> None:
    if version not in _VERSIONS:
        raise ValueError(f"MODEL.CLASSIFIER.MCTFORMER.VERSION is {version!r}, allowed: {_VERSIONS}")
