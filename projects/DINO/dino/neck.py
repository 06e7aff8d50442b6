"""Maps of the backbone to levels of one width, and coarser levels made from the last."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

__all__ = ["Neck"]

_GROUPS = 32


class _ConvNorm(nn.Module):
    def __init__(self, channels: int, width: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)
        # Two channels or more in a group: one alone has no spread on a level of a single cell.
        self.norm = nn.GroupNorm(min(_GROUPS, width // 2), width)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(features))
        return normed


class Neck(nn.Module):
    """1x1 convolutions of the backbone's maps, then 3x3 ones of stride 2; each with group norm.

    The first extra level is made from the backbone's last map, each further one from the level
    before. NOTE: group norm sees the padding of a batch, as in published code; everything after
    it does not.

    Source: extras.md, Sec. 1.1.
    """

    def __init__(
        self, channels: Mapping[str, int], in_features: Sequence[str], *, levels: int, width: int
    ) -> None:
        """Make the convolutions.

        Args:
            channels: of each map that the backbone gives.
            in_features: maps to take, finest first.
            levels: how many levels come out.
            width: their channels.

        Raises:
            ValueError: maps that the backbone does not give; fewer levels than maps; a width
                that has no 32 groups.
        """
        super().__init__()
        unknown = [name for name in in_features if name not in channels]
        if unknown or not in_features:
            raise ValueError(
                f"MODEL.DINO.IN_FEATURES is {list(in_features)}, the backbone gives "
                f"{list(channels)}; name one or more of these, finest first"
            )
        if levels < len(in_features):
            raise ValueError(
                f"MODEL.DINO.NUM_LEVELS is {levels}, fewer than the {len(in_features)} maps of "
                "MODEL.DINO.IN_FEATURES"
            )
        if width % _GROUPS:
            raise ValueError(f"MODEL.DINO.HIDDEN_DIM must be a multiple of {_GROUPS}, got {width}")
        self.in_features = tuple(in_features)
        self.convs = nn.ModuleList(
            _ConvNorm(channels[name], width, kernel=1, stride=1) for name in in_features
        )
        extra = levels - len(in_features)
        inputs = [channels[in_features[-1]], *[width] * extra][:extra]
        self.extra_convs = nn.ModuleList(_ConvNorm(c, width, kernel=3, stride=2) for c in inputs)

    def forward(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Maps of the backbone to levels (N, width, h, w), finest first."""
        levels = [conv(maps[name]) for conv, name in zip(self.convs, self.in_features, strict=True)]
        last = maps[self.in_features[-1]]
        for conv in self.extra_convs:
            last = conv(last)
            levels.append(last)
        return levels
