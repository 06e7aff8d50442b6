"""Any timm network with feature maps as a detectron2 backbone: levels, a pyramid, or one map."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.weights import load_imagenet_lite0, resolve_weights

__all__ = [
    "ConcatLevels",
    "TimmBackbone",
    "build_timm_backbone",
    "build_timm_concat_backbone",
    "build_timm_fpn_backbone",
    "load_timm_features",
]

LITE0_SOURCE = "package:efficientnet-lite0"
WHOLE_STRIDE = 32  # of a network that is not dilated
WHOLE_NETWORK = 5  # feature levels of a timm network with strides 2 to 32


def load_timm_features(
    name: str, out_indices: Sequence[int], weights: str = "", *, output_stride: int = 32
) -> nn.Module:
    """Make a timm network that gives a list of feature maps, with all its weights loaded.

    Args:
        name: a timm model that supports ``features_only``. A transformer must take images of
            any size (``vit_*``, ``deit_*``, ``swin*`` and their like do).
        out_indices: feature indices; index i has stride 2^(i+1) in most CNNs, and is the block
            in a plain vision transformer.
        weights: "" for random ones, ``package:efficientnet-lite0``, a URL or a file.
        output_stride: 8 or 16: what would have a larger stride is dilated instead.

    Raises:
        ValueError: if timm has no such network, it cannot be dilated, or the weights do not cover
            all of it; names the first parameters that are missing or have another shape.
    """
    if not name or not timm.is_model(name):
        raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which is not a model of timm")
    network = _create(name, tuple(out_indices), _dilation(output_stride))
    if weights:
        _load_all(_body(network), _read_weights(name, weights), source=f"{weights!r} for {name}")
    return network


def _dilation(output_stride: int) -> dict[str, Any]:
    """The argument of a network's constructor that keeps its stride down; none for 32."""
    if output_stride not in (8, 16, WHOLE_STRIDE):
        raise ValueError(f"MODEL.TIMM.OUTPUT_STRIDE is {output_stride}, expected 8, 16 or 32")
    return {} if output_stride == WHOLE_STRIDE else {"output_stride": output_stride}


def _create(name: str, out_indices: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    """Make the network so that it gives (N, C, H, W) for images of any size."""
    make: Callable[..., nn.Module] = functools.partial(
        timm.create_model,
        name,
        features_only=True,
        out_indices=out_indices,
        pretrained=False,
        **options,
    )
    try:
        network = make()
    except TypeError as error:
        if not options:
            raise
        raise ValueError(
            f"MODEL.TIMM.NAME {name!r} cannot be dilated; set MODEL.TIMM.OUTPUT_STRIDE to 32"
        ) from error
    if str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC"):
        make = functools.partial(make, feature_cls="getter")
        network = make()
    accepted = inspect.signature(type(_body(network)).__init__).parameters
    for option, value in (("dynamic_img_size", True), ("strict_img_size", False)):
        if _body(network) is not network and option in accepted:
            return make(**{option: value})
    return network


def _body(network: nn.Module) -> nn.Module:
    """The network that holds the layers: transformers are wrapped whole."""
    inner = getattr(network, "model", None)
    wrapped = isinstance(inner, nn.Module) and hasattr(inner, "forward_intermediates")
    return cast(nn.Module, inner) if wrapped else network


def _read_weights(name: str, weights: str) -> dict[str, Tensor]:
    if weights == LITE0_SOURCE:
        if "efficientnet_lite0" not in name:
            raise ValueError(
                f"MODEL.TIMM.WEIGHTS {weights!r} belong to tf_efficientnet_lite0, not to {name!r}"
            )
        return load_imagenet_lite0()
    path = resolve_weights(weights)
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return dict(state)


def _load_all(network: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load every entry of the network's state; entries of the file's head may be left over."""
    # timm's flattened feature networks write "stages_0." where the full network has "stages.0.".
    given = {key.replace("_", "."): value for key, value in state.items()}
    loaded, bad = {}, []
    for key, value in network.state_dict().items():
        found = given.get(key.replace("_", "."))
        # Batch norm's counter is not a weight, and many published files were saved without it.
        if found is None and key.endswith("num_batches_tracked"):
            found = value
        if found is None:
            bad.append(f"{key} (missing)")
        elif found.shape != value.shape:
            bad.append(f"{key} {tuple(found.shape)} instead of {tuple(value.shape)}")
        else:
            loaded[key] = found
    if bad:
        raise ValueError(
            f"MODEL.TIMM.WEIGHTS {source} cover {len(loaded)} of {len(loaded) + len(bad)} "
            f"entries; first differences: {', '.join(bad[:3])}"
        )
    network.load_state_dict(loaded)


class TimmBackbone(Backbone):
    """Feature maps ``c2`` ... ``c5`` (stride 2^n, rounded down) of a timm network.

    A dilated network has the same names, level index i is ``c<i+1>``, and smaller strides.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        freeze_at: int = 0,
        freeze_norm: bool = True,
        dilated: bool = False,
    ) -> None:
        """Wrap a network of :func:`load_timm_features`.

        Args:
            network: gives a list of maps and has timm's ``feature_info``.
            freeze_at: stem and this many feature levels (blocks of a plain vision transformer)
                do not learn; 5: the whole network, which then runs without a graph.
            freeze_norm: every batch norm keeps statistics and affine parameters.
            dilated: strides do not tell the levels apart.

        Raises:
            ValueError: if ``freeze_at`` is not from 0 to 5, or two levels have one stride.
        """
        super().__init__()
        if not 0 <= freeze_at <= WHOLE_NETWORK:
            raise ValueError(f"MODEL.TIMM.FREEZE_AT must be from 0 to 5, got {freeze_at}")
        self.network = network
        info: Any = network.feature_info
        strides, channels = list(info.reduction()), list(info.channels())
        names = [f"c{int(math.log2(stride))}" for stride in strides]
        if dilated:
            names = [f"c{index + 1}" for index in info.out_indices]
        if len(set(names)) < len(names):
            raise ValueError(
                f"MODEL.TIMM.OUT_INDICES names levels of strides {strides}; name one for each "
                "stride (one block of a plain vision transformer)"
            )
        self._out_features = names
        self._out_feature_strides = dict(zip(names, strides, strict=True))
        self._out_feature_channels = dict(zip(names, channels, strict=True))
        self._whole = freeze_at == WHOLE_NETWORK
        self._fixed = list(self._modules_to_fix(freeze_at, freeze_norm))
        for module in self._fixed:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        if freeze_at:
            # Position embedding and class token, which belong to the stem.
            for parameter in _body(network).parameters(recurse=False):
                parameter.requires_grad_(False)
        self.train(self.training)

    def _modules_to_fix(self, freeze_at: int, freeze_norm: bool) -> Iterator[nn.Module]:
        if self._whole:
            yield self.network
            return
        info: Any = self.network.feature_info
        # Stages after the last level get no gradient: distributed training would wait for it.
        body = _body(self.network)
        yield from _modules_after(body, info.module_name()[-1])
        if freeze_at:
            yield from _modules_up_to(body, info.info[freeze_at - 1]["module"])
        if freeze_norm:
            # Not FrozenBatchNorm2d: timm's BatchNormAct2d holds the activation and would lose it.
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    yield module

    def train(self, mode: bool = True) -> "TimmBackbone":
        """As ``nn.Module.train``, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in getattr(self, "_fixed", ()):
            module.eval()
        return self

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride, so that every level has a whole number of cells."""
        return int(max(self._out_feature_strides.values()))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images (N, 3, H, W) to ``{"c<n>": (N, channels, H / 2^n, W / 2^n)}``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._whole):
            levels = self.network(images)
        return dict(zip(self._out_features, levels, strict=True))


def _modules_up_to(network: nn.Module, target: str) -> list[nn.Module]:
    """Whole modules, in order of execution, up to the end of the one named target."""
    names = {target, target.replace(".", "_")}  # the second in timm's flattened networks
    found: list[nn.Module] = []
    reached = False
    for name, module in network.named_modules():
        inside = any(name == n or name.startswith(n + ".") for n in names)
        if reached and not inside:
            return found
        reached = reached or inside
        holds_target = not name or any(n.startswith(name + ".") for n in names)
        if not holds_target:
            found.append(module)
    if not reached:
        raise ValueError(f"the network has no module {target!r}; lower MODEL.TIMM.FREEZE_AT")
    return found


def _modules_after(network: nn.Module, target: str) -> list[nn.Module]:
    """Modules that are executed after the one named target; none if there is no such name."""
    names = (target, target.replace(".", "_"))
    found: list[nn.Module] = []
    reached = False
    for name, module in network.named_modules():
        inside = any(name == n or name.startswith(n + ".") for n in names)
        if reached and not inside:
            found.append(module)
        reached = reached or inside
    return found


class ConcatLevels(Backbone):
    """One map ``concat`` at the finest level's stride: coarser levels upsampled and joined."""

    def __init__(self, bottom_up: Backbone) -> None:
        """Join all levels of ``bottom_up``."""
        super().__init__()
        self.bottom_up = bottom_up
        shapes = bottom_up.output_shape()
        self._names = sorted(shapes, key=lambda name: shapes[name].stride)
        self._out_features = ["concat"]
        self._out_feature_strides = {"concat": shapes[self._names[0]].stride}
        self._out_feature_channels = {"concat": sum(shapes[n].channels for n in self._names)}

    @property
    def size_divisibility(self) -> int:
        """That of the network below."""
        return int(self.bottom_up.size_divisibility)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) to ``{"concat": (N, sum of channels, H / s, W / s)}``."""
        levels = self.bottom_up(images)
        finest = levels[self._names[0]]
        joined = [finest]
        for name in self._names[1:]:
            joined.append(
                F.interpolate(
                    levels[name], size=finest.shape[-2:], mode="bilinear", align_corners=False
                )
            )
        return {"concat": torch.cat(joined, dim=1)}


def _last_level_pool(last: str) -> LastLevelMaxPool:
    """Detectron2's extra level, which knows only of ``p5``, on top of any last level."""
    block = LastLevelMaxPool()
    block.in_feature = last
    return block


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the levels ``MODEL.TIMM.OUT_INDICES`` of ``MODEL.TIMM.NAME`` as ``c<n>``."""
    if input_shape.channels != 3:
        raise ValueError(f"a timm backbone takes 3 channels, the input has {input_shape.channels}")
    node = cfg.MODEL.TIMM
    return TimmBackbone(
        load_timm_features(
            node.NAME, node.OUT_INDICES, node.WEIGHTS, output_stride=node.OUTPUT_STRIDE
        ),
        freeze_at=node.FREEZE_AT,
        freeze_norm=node.FREEZE_NORM,
        dilated=node.OUTPUT_STRIDE != WHOLE_STRIDE,
    )


@BACKBONE_REGISTRY.register()
def build_timm_concat_backbone(cfg: Any, input_shape: ShapeSpec) -> ConcatLevels:
    """Build one map ``concat`` of all levels, at the stride of the finest."""
    return ConcatLevels(build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's FPN on the levels: ``p<n>`` for each ``c<n>``, and one level more."""
    if cfg.MODEL.TIMM.OUTPUT_STRIDE != WHOLE_STRIDE:
        raise ValueError(
            f"MODEL.TIMM.OUTPUT_STRIDE is {cfg.MODEL.TIMM.OUTPUT_STRIDE}: the levels of a pyramid "
            "need strides that double, set it to 32 or use build_timm_backbone"
        )
    bottom_up = build_timm_backbone(cfg, input_shape)
    levels = list(bottom_up.output_shape())
    return FPN(
        bottom_up=bottom_up,
        in_features=levels,
        out_channels=cfg.MODEL.TIMM.FPN_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_last_level_pool("p" + levels[-1][1:]),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
