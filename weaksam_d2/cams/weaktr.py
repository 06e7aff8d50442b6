"""WeakTr: class tokens with adaptive attention fusion (arXiv 2304.01184; wsss.md, Sec. 3.3)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from detectron2.config import configurable
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.ops.class_tokens import (
    class_attention,
    fuse_maps,
    interleaved_heads,
    mean_patch_attention,
    pool_attention,
)

from .class_token_network import ClassTokenNetwork, Clues, channel_table
from .class_token_vit import BlockAttention, ClassTokenViT, build_vit
from .classifier import CAM_NETWORK_REGISTRY
from .cnn_patches import build_patches

__all__ = ["AttentionFusion", "WeakTr"]

_FUSIONS = ("v3", "v2", "v1")
_POOLS = ("max", "avg")
_FEATURES = ("attn_out", "block_out")
_FEATURE_UNITS = 8  # hidden units of the feature network, whatever the head's width


class AttentionFusion(nn.Module):
    """Gates in (0, 1) for all attention maps of an image, from one number for each map.

    "v3" makes the number from pooled features of the head, the older ones take the pooled
    attention map itself ("v1" and "v2" differ in the names of their weights only).
    """

    def __init__(
        self,
        *,
        blocks: int,
        heads: int,
        head_width: int,
        fusion: Literal["v3", "v2", "v1"] = "v3",
        pool: Literal["max", "avg"] = "max",
        feature: Literal["attn_out", "block_out"] = "attn_out",
        reduction: int = 8,
    ) -> None:
        """Make the two small networks.

        Args:
            blocks: number of blocks; with the heads it gives the number of attention maps.
            heads: attention heads of a block.
            head_width: channels of a head.
            fusion: kind of the input, see above.
            pool: over all tokens, or over all entries of an attention map.
            feature: what v3 pools: the attention's output ("v3" checkpoints), or the block's.
            reduction: r; the hidden layer has blocks * heads / r units.

        Raises:
            ValueError: a choice that does not exist, or a reduction that leaves no unit.
        """
        super().__init__()
        for key, value, allowed in (
            ("FUSION", fusion, _FUSIONS),
            ("POOL", pool, _POOLS),
            ("FEATURE", feature, _FEATURES),
        ):
            if value not in allowed:
                raise ValueError(f"MODEL.CLASSIFIER.WEAKTR.{key} is {value!r}, allowed: {allowed}")
        count = blocks * heads
        if not 1 <= reduction <= count:
            raise ValueError(
                f"MODEL.CLASSIFIER.WEAKTR.REDUCTION is {reduction}, expected 1 to {count}, the "
                "number of attention maps"
            )
        self.fusion, self.pool, self.feature = fusion, pool, feature
        gate = nn.Sequential(
            nn.Linear(count, count // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(count // reduction, count, bias=False),
        )
        if fusion == "v1":
            self.fc = gate
        else:
            self.attn_head_ffn = gate
        if fusion == "v3":
            self.attn_feat_ffn = nn.Sequential(
                nn.Linear(head_width, _FEATURE_UNITS), nn.Linear(_FEATURE_UNITS, 1)
            )

    def describe(self, seen: BlockAttention) -> Tensor:
        """What this fusion takes of one block: (N, heads, channels) or pooled maps (N, heads)."""
        if self.fusion != "v3":
            return pool_attention(seen.query, seen.key, self.pool)
        features = seen.branch if self.feature == "attn_out" else seen.output
        pooled = features.amax(dim=1) if self.pool == "max" else features.mean(dim=1)
        return interleaved_heads(pooled, seen.query.shape[1])

    def forward(self, described: Sequence[Tensor]) -> Tensor:
        """Gates (N, heads, blocks) from :meth:`describe` of each block.

        The maps are numbered head by head: map i = head * blocks + block.
        """
        stacked = torch.stack(list(described), dim=2)
        numbers = self.attn_feat_ffn(stacked)[..., 0] if self.fusion == "v3" else stacked
        gate = self.fc if self.fusion == "v1" else self.attn_head_ffn
        return torch.sigmoid(gate(numbers.flatten(1))).view(numbers.shape)


@CAM_NETWORK_REGISTRY.register()
class WeakTr(ClassTokenNetwork):
    """Classes from tokens, from patches and from patches weighted by the fused attention.

    With F the mean of all gated attention maps: coarse is the positive part of the patch head
    (the released name for its product with the class attention of F, the seed of the fine map,
    is also "coarse"; WeakSAM's prompts take the head's own). The fine map is F's patch attention
    applied to the seed.
    """

    @configurable
    def __init__(
        self,
        *,
        vit: ClassTokenViT,
        channels: Sequence[int],
        fusion: AttentionFusion,
        cross_blocks: tuple[int, int] | None = None,
        weights: str = "",
    ) -> None:
        """Build the classifier; weights: published ones (see ``load_published``)."""
        super().__init__(vit=vit, channels=channels, cross_blocks=cross_blocks)
        self.adaptive_attention_fusion = fusion
        self.checkpoint_kind = f"WeakTr {fusion.fusion}"
        self.load_weights(weights)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.CLASSIFIER`` and ``WEAKSAM.CAMS``."""
        node = cfg.MODEL.CLASSIFIER
        network = build_vit(node.VIT, drop_path=node.DROP_PATH, depth=node.DEPTH)
        vit = ClassTokenViT(
            vit=network,
            num_channels=channel_table(node.CHANNELS, cfg.MODEL.ROI_HEADS.NUM_CLASSES)[1],
            pos_interp=node.POS_INTERP,
            patches=build_patches(cfg, network.embed_dim),
        )
        fusion = AttentionFusion(
            blocks=vit.depth,
            heads=vit.heads,
            head_width=vit.width // vit.heads,
            fusion=node.WEAKTR.FUSION,
            pool=node.WEAKTR.POOL,
            feature=node.WEAKTR.FEATURE,
            reduction=node.WEAKTR.REDUCTION,
        )
        common = cls.common_arguments(cfg)
        return {"vit": vit, "fusion": fusion, "weights": node.WEIGHTS, **common}

    def loss_terms(self, images: Tensor) -> list[Tensor]:
        """Logits of class tokens, patches (mean of Z), and fine map (its mean over the patches).

        The last one trains the fusion alone: attention, features and patch scores are detached.
        The mean of the fine map needs the mean over the rows of the patch attention only.
        """
        described, columns, rows = [], [], []
        every = torch.arange(self.vit.num_channels, device=images.device)

        def observe(seen: BlockAttention) -> None:
            described.append(self.adaptive_attention_fusion.describe(seen))
            columns.append(mean_patch_attention(seen.query, seen.key, len(every)))
            rows.append(class_attention(seen.query, seen.key, every, len(every)))

        tokens = self.vit.tokens(images, observe)
        scores = self.vit.patch_scores(tokens, self.vit.grid(images))
        # Attention times attention is too small for half precision.
        with torch.autocast(images.device.type, enabled=False):
            gates = self.adaptive_attention_fusion(described).flatten(1)
            received = fuse_maps(gates, torch.stack(columns, dim=2).flatten(1, 2))
            seed = fuse_maps(gates, torch.stack(rows, dim=2).flatten(1, 2))
            seed = seed * F.relu(scores.detach().float()).flatten(2)
            fine = (seed * received[:, None]).sum(dim=-1)
        return [self.vit.token_logits(tokens), scores.mean(dim=(2, 3)), fine]

    def clues(self, seen: Sequence[BlockAttention], rows: Tensor, scores: Tensor | None) -> Clues:
        """Class attention of the fused map times the patch scores, spread by the fused map."""
        assert scores is not None
        fusion = self.adaptive_attention_fusion
        gates = fusion([fusion.describe(block) for block in seen])[0].T
        attention = fuse_maps(gates.reshape(1, -1), rows.flatten(0, 1)[None])[0]
        return Clues(scores, attention * scores, gates / gates.numel())
