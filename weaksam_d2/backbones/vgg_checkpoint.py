"""VGG16 weights of other programs under the names of our network, pixel convention included."""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import atomic_write, sha256_file

from .vgg import STAGES

__all__ = [
    "PIXEL_CONVENTIONS",
    "PixelConvention",
    "choose_pixels",
    "convert_vgg16",
    "read_vgg16",
    "save_vgg16",
    "vgg16_layout",
]

FORMAT = "weaksam_d2.vgg16/1"
FC_DIM, POOLED = 4096, 7  # fc6 and fc7; cells of a pooled region
# torchvision's own file: its name holds the first digits of its SHA-256.
TORCHVISION_SHA256 = "397923af"
_LISTED = 5


@dataclass(frozen=True)
class PixelConvention:
    """What a network's input was in its training: (pixel in 0 to 255 - mean) / std."""

    format: str  # RGB | BGR
    mean: tuple[float, float, float]  # in the order of ``format``
    std: tuple[float, float, float]

    def config_lines(self, weights: str | Path) -> str:
        """The YAML of a config that uses these weights."""
        return (
            f"MODEL:\n  WEIGHTS: {weights}\n  PIXEL_MEAN: {list(self.mean)}\n"
            f"  PIXEL_STD: {list(self.std)}\nINPUT:\n  FORMAT: {self.format}\n"
        )


# weaksam.md, Sec. 5.1. Caffe's weights come with either mean, exact (MIST) or rounded (WeakSAM's
# OICR on VOC); torchvision's means are its shares of 1 times 255.
PIXEL_CONVENTIONS = {
    "caffe": PixelConvention("BGR", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)),
    "caffe_rounded": PixelConvention("BGR", (104.0, 117.0, 124.0), (1.0, 1.0, 1.0)),
    "torchvision": PixelConvention("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
# Name of a layer's weight and bias in each layout, from its two names below.
_SUFFIXES = {
    "torchvision": (".weight", ".bias"),
    "caffe": (".weight", ".bias"),
    "caffe2": ("_w", "_b"),
}
_CLASSIFIER = {"torchvision": "classifier.6", "caffe": "fc8", "caffe2": "fc8"}  # is left out


def _layers() -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Our name, torchvision's, Caffe's and the weight's shape, layer by layer."""
    channels, index = 3, 0
    for stage, (width, depth) in enumerate(STAGES, start=1):
        for number in range(1, depth + 1):
            name = f"conv{stage}_{number}"
            ours = f"backbone.stages.plain{stage}.{name}"
            yield ours, f"features.{index}", name, (width, channels, 3, 3)
            channels, index = width, index + 2  # a ReLU follows each
        index += 1  # a pool follows each stage
    head = "roi_heads.box_head.layers"
    # Both write a region channel by channel, as our head does.
    yield f"{head}.fc6", "classifier.0", "fc6", (FC_DIM, channels * POOLED * POOLED)
    yield f"{head}.fc7", "classifier.3", "fc7", (FC_DIM, FC_DIM)


def vgg16_layout(state: Mapping[str, Any]) -> str:
    """``torchvision``, ``caffe`` or ``caffe2``: whose names a state dict has.

    Raises:
        ValueError: none of them.
    """
    for layout, first in (
        ("torchvision", "features.0.weight"),
        ("caffe", "conv1_1.weight"),
        ("caffe2", "conv1_1_w"),
    ):
        if first in state:
            return layout
    raise ValueError(
        "these are no names of a VGG16: expected features.0.weight (torchvision), conv1_1.weight "
        f"or conv1_1_w (Caffe), got {sorted(state)[:_LISTED]}"
    )


def convert_vgg16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a VGG16 (16 layers, without batch norm) to those of our detector.

    Args:
        state: names of torchvision, Caffe or Caffe2. The last layer, which knows ImageNet's
            classes, is left out if it is there.

    Returns:
        Float32 ``backbone.stages.plain<n>.conv<n>_<i>.*`` and
        ``roi_heads.box_head.layers.{fc6,fc7}.*``, the same memory where the type is the same.

    Raises:
        ValueError: a name is missing or superfluous, another shape, a value that is not finite.
    """
    layout = vgg16_layout(state)
    weight, bias = _SUFFIXES[layout]
    dropped = {_CLASSIFIER[layout] + weight, _CLASSIFIER[layout] + bias}
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for ours, torchvision, caffe, shape in _layers():
        theirs = torchvision if layout == "torchvision" else caffe
        wanted[theirs + weight] = (f"{ours}.weight", shape)
        wanted[theirs + bias] = (f"{ours}.bias", shape[:1])
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is superfluous" for name in sorted(set(state) - set(wanted) - dropped)]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {shape}"
        for name, (_, shape) in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(f"not a VGG16 in {layout}'s layout: {'; '.join(problems[:_LISTED])}{more}")
    converted = {ours: state[name].float() for name, (ours, _) in wanted.items()}
    # A sum is finite only if its terms are; torchvision's "features" file has NaN in classifier.*.
    bad = [name for name, value in converted.items() if not bool(value.sum().isfinite())]
    if bad:
        raise ValueError(f"values of {bad[:_LISTED]} are not finite; take a file of a whole VGG16")
    return converted


def read_vgg16(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Names and tensors of a ``.pth``, ``.npz``, ``.npy`` or ``.pkl`` file.

    Args:
        path: a state dict, or one under ``state_dict``, ``model`` or ``blobs``; a leading
            ``module.`` of names is cut off.
        allow_pickle: needed for ``.npy`` and ``.pkl``, which may run any code when they are read.

    Raises:
        ValueError: another kind of file, a pickle that is not allowed, no names and arrays.
    """
    suffix = path.suffix.lower()
    if suffix in (".npy", ".pkl") and not allow_pickle:
        raise ValueError(
            f"{path} is a pickle and may run any code when it is read; allow it (--allow-pickle) "
            "only if you trust its source, or save its arrays as .npz"
        )
    stored: Any
    if suffix in (".pth", ".pt"):
        stored = torch.load(path, map_location="cpu", weights_only=True)
    elif suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    elif suffix == ".npy":
        stored = np.load(path, allow_pickle=True)[()]
    elif suffix == ".pkl":
        with path.open("rb") as stream:
            stored = pickle.load(stream, encoding="latin1")
    else:
        raise ValueError(f"{path}: expected a .pth, .npz, .npy or .pkl file")
    for key in ("state_dict", "model", "blobs"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(
        isinstance(value, Tensor | np.ndarray) for value in stored.values()
    ):
        raise ValueError(f"{path} holds no dictionary of names and arrays")
    return {name.removeprefix("module."): torch.as_tensor(v) for name, v in stored.items()}


def choose_pixels(asked: str, layout: str, sha256: str) -> str:
    """The name in :data:`PIXEL_CONVENTIONS` that fits a file.

    Args:
        asked: such a name, or ``auto``: Caffe's names have Caffe's pixels, and torchvision's own
            file is known by its hash.
        layout: of :func:`vgg16_layout`.
        sha256: of the file.

    Raises:
        ValueError: ``auto`` for another file with torchvision's names, which are used for
            weights of Caffe, too.
    """
    if asked != "auto":
        return asked
    if layout != "torchvision":
        return "caffe"
    if sha256.startswith(TORCHVISION_SHA256):
        return "torchvision"
    raise ValueError(
        "torchvision's names, but not torchvision's file: such files hold weights of Caffe (BGR) "
        f"as well as of torchvision (RGB); say which with --pixels {'|'.join(PIXEL_CONVENTIONS)}"
    )


def save_vgg16(
    path: Path, source: Path, *, pixels: str = "auto", allow_pickle: bool = False
) -> str:
    """Convert a file into one that ``MODEL.WEIGHTS`` takes; return the pixel convention's name.

    It is detectron2's (``{"model": state dict}``) with one more entry ``vgg16``: format, source
    and its hash, layout, and the pixel convention.

    Raises:
        ValueError: see :func:`read_vgg16`, :func:`choose_pixels` and :func:`convert_vgg16`.
    """
    state = read_vgg16(source, allow_pickle=allow_pickle)
    layout, sha256 = vgg16_layout(state), sha256_file(source)
    chosen = choose_pixels(pixels, layout, sha256)
    about = {"format": FORMAT, "source": source.name, "sha256": sha256, "layout": layout}
    about |= {"pixels": chosen, **asdict(PIXEL_CONVENTIONS[chosen])}
    converted = convert_vgg16(state)
    with atomic_write(path) as temporary:
        torch.save({"model": converted, "vgg16": about}, temporary)
    return chosen
