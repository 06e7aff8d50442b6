"""Tokens of all levels that look at each other."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from .pyramid import Pyramid

if TYPE_CHECKING:
    from .layers import LayerSettings

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """Layers of deformable self-attention; positions are added to the queries of each."""

    def __init__(self, settings: "LayerSettings", depth: int) -> None:
        """Make ``depth`` layers.

        Raises:
            ImportError: transformers is missing.
        """
        super().__init__()
        from .layers import make_encoder_layer

        self.layers = nn.ModuleList(make_encoder_layer(settings) for _ in range(depth))

    def forward(self, tokens: Tensor, positions: Tensor, pyramid: Pyramid) -> Tensor:
        """Tokens (N, S, D) and their positions (N, S, D) to tokens (N, S, D)."""
        from .layers import encode

        for layer in self.layers:
            tokens = encode(layer, tokens, positions, pyramid)
        return tokens
