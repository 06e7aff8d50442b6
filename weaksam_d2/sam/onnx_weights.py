"""MobileSAM's weights out of an ONNX pair, or out of the official file, as one state dict.

In the ONNX files batch norm is folded into the convolutions and many tensors are anonymous; they
are identified through the node that uses them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weaksam_d2.sam.tiny_vit import TinyViTEncoder, build_mobile_sam
from weaksam_d2.weights import WeightsError

__all__ = ["convert_official", "convert_onnx_pair"]

_NUM_CONVS = 29  # 27 with a folded batch norm, 2 of the neck
_AFFINE = {"Mul": "weight", "Add": "bias"}  # what layer norm over channels was exported as


def convert_onnx_pair(folder: Path) -> dict[str, Tensor]:
    """Return the state dict of ``build_mobile_sam(fused=True)`` from an ONNX pair.

    Args:
        folder: holds ``encoder.onnx`` and ``sam.onnx``.

    Raises:
        WeightsError: the package onnx is missing, or a tensor was not recognized.
    """
    encoder, decoder = folder / "encoder.onnx", folder / "sam.onnx"
    state = {
        **{f"image_encoder.{k}": v for k, v in _encoder_tensors(encoder).items()},
        **_decoder_tensors(decoder),
    }
    _check_keys(state, folder)
    return state


def convert_official(stored: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return the state dict of ``build_mobile_sam(fused=True)`` from ``mobile_sam.pt``.

    Args:
        stored: state dict in the official layout (``image_encoder.layers.*``, separate batch
            norms); keys of the classifier and expanded attention biases are left out.
        source: named in errors.

    Raises:
        WeightsError: keys are missing or unknown.
    """
    dropped = re.compile(
        r"image_encoder\.(norm_head|head)\.|\.attn\.(ab|attention_bias_idxs)$|^pixel_(mean|std)$"
    )
    prefix = "image_encoder."
    encoder = TinyViTEncoder()
    body, rest = {}, {}
    for key, tensor in stored.items():
        if dropped.search(key):
            continue
        if key.startswith(prefix):
            name = re.sub(r"\.c\.weight$", ".conv.weight", key.removeprefix(prefix))
            body[_timm_name(name)] = tensor
        else:
            rest[key] = tensor
    missing, unexpected = _key_difference(encoder.state_dict(), body)
    if missing or unexpected:
        raise WeightsError(
            f"{source}: not MobileSAM's image encoder; missing {missing[:5]} ({len(missing)}), "
            f"unexpected {unexpected[:5]} ({len(unexpected)})"
        )
    encoder.load_state_dict(body)
    encoder.eval().fuse()
    state = {**{prefix + k: v for k, v in encoder.state_dict().items()}, **rest}
    _check_keys(state, source)
    return state


def _timm_name(name: str) -> str:
    """patch_embed.seq.2.* → patch_embed.conv2.*; layers.0.downsample.* → stages.1.downsample.*."""
    name = re.sub(
        r"^patch_embed\.seq\.([02])\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}.", name
    )
    name = re.sub(
        r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.", name
    )
    return re.sub(r"^layers\.", "stages.", name)


def _key_difference(wanted: Any, found: Any) -> tuple[list[str], list[str]]:
    return sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))


def _check_keys(state: dict[str, Tensor], source: Path) -> None:
    wanted = build_mobile_sam().state_dict()
    missing, unexpected = _key_difference(wanted, state)
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"{source}: tensors do not fit MobileSAM; missing {missing[:5]} ({len(missing)}), "
            f"unexpected {unexpected[:5]} ({len(unexpected)}), other shape {shapes[:5]}"
        )


class _Graph:
    """An ONNX graph whose initializers are handed out once, and counted."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
            from onnx import numpy_helper
        except ImportError as error:
            raise WeightsError(
                f"{path}: converting needs the package onnx; run: python -m pip install onnx"
            ) from error
        self.path = path
        self._graph = onnx.load(str(path)).graph
        self._to_array = numpy_helper.to_array
        self._tensors = {t.name: t for t in self._graph.initializer}
        self._used: set[str] = set()

    def nodes(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield operator, module path ("layers.0.conv1.c") and initializer names of each node."""
        for node in self._graph.node:
            names = [name for name in node.input if name in self._tensors]
            if names:
                yield node.op_type, self.module_path(node.name), names

    @staticmethod
    def module_path(node_name: str) -> str:
        """/patch_embed/seq/seq.0/c/Conv → patch_embed.seq.0.c (doubled parts collapse)."""
        parts: list[str] = []
        for part in node_name.strip("/").split("/")[:-1]:
            if parts and part.startswith(parts[-1] + "."):
                parts[-1] = part
            else:
                parts.append(part)
        return ".".join(parts)

    def constants(self, suffix: str) -> Iterator[tuple[str, Tensor]]:
        """Yield (module path, value) of each constant that feeds a node named ``*suffix``."""
        values = {n.output[0]: n for n in self._graph.node if n.op_type == "Constant"}
        for node in self._graph.node:
            for name in node.input:
                if node.name.endswith(suffix) and name in values:
                    array = self._to_array(values[name].attribute[0].t)
                    if array.ndim == 3:
                        yield self.module_path(node.name), torch.from_numpy(array.copy())

    def take(self, name: str) -> Tensor:
        self._used.add(name)
        return torch.from_numpy(self._to_array(self._tensors[name]).copy())

    def check_all_used(self) -> None:
        left = sorted(set(self._tensors) - self._used)
        if left:
            raise WeightsError(f"{self.path}: tensors not recognized: {left[:8]} ({len(left)})")


def _encoder_tensors(path: Path) -> dict[str, Tensor]:
    graph = _Graph(path)
    state: dict[str, Tensor] = {}
    convs = 0
    for operator, module, names in graph.nodes():
        if operator == "Conv":
            convs += 1
            name = _timm_name(f"{module.removesuffix('.c')}.")[:-1]
            for part, tensor_name in zip(("weight", "bias"), names, strict=False):
                state[f"{name}.{part}"] = graph.take(tensor_name)
        elif operator == "MatMul" and names[0].startswith("onnx::"):
            state[f"{_timm_name(module)}.weight"] = graph.take(names[0]).T.contiguous()
        elif operator in _AFFINE and names[0].startswith("onnx::"):
            state[f"{module}.{_AFFINE[operator]}"] = graph.take(names[0]).flatten()
        else:
            state.update({_timm_name(name): graph.take(name) for name in names})
    if convs != _NUM_CONVS:
        raise WeightsError(f"{path}: expected {_NUM_CONVS} convolutions, found {convs}")
    graph.check_all_used()
    state.update(_attention_biases(graph))
    return state


def _attention_biases(graph: _Graph) -> dict[str, Tensor]:
    """Fold each expanded (heads, n, n) bias back to one value for each offset."""
    encoder = TinyViTEncoder()
    biases = {}
    for module, expanded in graph.constants("/attn/Add"):
        name = _timm_name(module)
        attention = encoder.get_submodule(name)
        index = attention.get_buffer("attention_bias_idxs")
        compact = torch.zeros_like(attention.get_parameter("attention_biases"))
        compact[:, index.flatten()] = expanded.flatten(1)
        if not torch.equal(compact[:, index], expanded):
            raise WeightsError(f"{graph.path}: bias of {module} is no function of the offset")
        biases[f"{name}.attention_biases"] = compact
    return biases


def _decoder_tensors(path: Path) -> dict[str, Tensor]:
    graph = _Graph(path)
    state: dict[str, Tensor] = {}
    for operator, module, names in graph.nodes():
        for name in names:
            tensor = graph.take(name)
            if not name.startswith("onnx::"):
                state[name.removeprefix("model.")] = tensor
            elif operator == "Expand":  # all output tokens: predicted IoU, then 4 masks
                state["mask_decoder.iou_token.weight"] = tensor[0, :1].clone()
                state["mask_decoder.mask_tokens.weight"] = tensor[0, 1:].clone()
            elif operator == "MatMul":
                state[f"mask_decoder.{module}.weight"] = tensor.T.contiguous()
            elif module:
                parent = "prompt_encoder" if "mask_downscaling" in module else "mask_decoder"
                state[f"{parent}.{module}.{_AFFINE[operator]}"] = tensor.flatten()
            else:
                state["prompt_encoder.no_mask_embed.weight"] = tensor.reshape(1, -1)
    graph.check_all_used()
    return state
