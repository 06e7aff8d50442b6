"""From the backbone's maps to per-pixel features and three maps for the transformer decoder."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["PixelDecoder"]


class PixelDecoder(nn.Module):
    """Deformable attention over strides 8 to 32, then one step of a feature pyramid to stride 4.

    Runs in float32 whatever the precision of the rest, like the official code: sampling positions
    do not stand rounding. Source: Mask2Former, Sec. 3.2.2; Deformable DETR.
    """

    def __init__(self, decoder: nn.Module, in_features: tuple[str, ...]) -> None:
        """Wrap the first module of :func:`build_layers`; ``in_features``, finest first."""
        super().__init__()
        self.decoder = decoder
        self.in_features = in_features

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Maps (N, C, H / s, W / s) to features (N, d, H / 4, W / 4) and maps of s 32, 16, 8."""
        maps = [features[name].float() for name in self.in_features]
        with torch.autocast(maps[0].device.type, enabled=False):
            found = self.decoder(maps, output_attentions=False, output_hidden_states=False)
        return found.mask_features, tuple(found.multi_scale_features)
