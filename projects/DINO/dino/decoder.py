"""Queries that look at the tokens and move their boxes, layer by layer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .positions import box_embedding, inverse_sigmoid
from .pyramid import Pyramid

if TYPE_CHECKING:
    from .layers import LayerSettings

__all__ = ["MLP", "Decoder"]


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int, zero_last: bool = False) -> None:
        """Make one layer from each width to the next; with ``zero_last`` the output begins at 0."""
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        if zero_last:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, values: Tensor) -> Tensor:
        """(..., first width) to (..., last width)."""
        for layer in self.layers[:-1]:
            values = layer(values).relu()
        last: Tensor = self.layers[-1](values)
        return last


class Decoder(nn.Module):
    """Decoder layers whose queries stand for boxes: iterative refinement, looked forward twice.

    Source: extras.md, Sec. 1.1; DINO, Sec. 3.5.
    """

    def __init__(self, settings: "LayerSettings", depth: int) -> None:
        """Make ``depth`` layers.

        Raises:
            ImportError: transformers is missing.
        """
        super().__init__()
        from .layers import make_decoder_layer

        self.width = settings.width
        self.layers = nn.ModuleList(make_decoder_layer(settings) for _ in range(depth))
        self.norm = nn.LayerNorm(settings.width)
        self.ref_point_head = MLP(2 * settings.width, settings.width, settings.width)
        for parameter in self.ref_point_head.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        states: Tensor,
        references: Tensor,
        memory: Tensor,
        pyramid: Pyramid,
        box_heads: Sequence[nn.Module],
        attention: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Refine queries.

        The reference of layer i + 1 is a constant to that layer, but the prediction of layer
        i + 1 is measured from it with its gradient, which so reaches box head i as well. Only the
        prediction takes normalized states.

        Args:
            states: (N, Q, D).
            references: (N, Q, 4) first boxes, center x, center y, width, height in [0, 1].
            memory: encoded tokens (N, S, D).
            pyramid: their geometry.
            box_heads: one for each layer, (N, Q, D) to (N, Q, 4).
            attention: bool (Q, Q), row i says which queries i sees; None: all.

        Returns:
            Normalized states (N, Q, D) and predicted boxes (N, Q, 4) of each layer.
        """
        from .layers import decode

        normed, boxes = [], []
        before = references.detach()
        for layer, head in zip(self.layers, box_heads, strict=True):
            here = before.detach()
            # NOTE: of the box in the image, not of the box times the unpadded share of the
            # finest level as in published code: a query does not depend on the padding.
            positions = self.ref_point_head(box_embedding(here, self.width))
            states = decode(layer, states, positions, here, memory, pyramid, attention)
            normed.append(self.norm(states))
            boxes.append((head(normed[-1]).float() + inverse_sigmoid(before)).sigmoid())
            before = (head(states).float() + inverse_sigmoid(here)).sigmoid()
        return normed, boxes
