"""MobileSAM's conversion, the official layout, and checkpoints that do not fit."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry
from torch import Tensor

from weaksam_d2.sam import build_sam
from weaksam_d2.sam.checkpoint import (
    CheckpointMismatchError,
    guess_arch,
    load_checkpoint,
    read_checkpoint,
)
from weaksam_d2.sam.onnx_weights import convert_onnx_pair
from weaksam_d2.sam.tiny_vit import TinyViTEncoder, build_mobile_sam
from weaksam_d2.weights import WeightsError


def official_layout() -> tuple[dict[str, Tensor], Any]:
    """Random weights under the names of ``mobile_sam.pt``, and the unfused model they are of."""
    torch.manual_seed(0)
    model = build_mobile_sam(64, fused=False)
    state = {}
    for key, value in model.state_dict().items():
        if value.dtype.is_floating_point:
            if key.endswith("attention_biases"):
                value = 20 * torch.randn_like(value)  # large: a stale copy must show
            elif key.endswith("running_var"):
                value = torch.rand_like(value) + 0.5
            elif value.ndim > 1:
                value = 0.1 * torch.randn_like(value)
            else:
                value = torch.randn_like(value)
        if key.endswith(("pixel_mean", "pixel_std")):
            continue
        state[key] = value
    model.load_state_dict(state, strict=True)
    renamed = {}
    for key, value in state.items():
        name = re.sub(
            r"patch_embed\.conv([12])\.", lambda m: f"patch_embed.seq.{2 * int(m[1]) - 2}.", key
        )
        name = re.sub(
            r"stages\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        name = name.replace("image_encoder.stages", "image_encoder.layers")
        if "image_encoder" in name:
            name = name.replace(".conv.weight", ".c.weight")
        renamed[name] = value
    renamed["image_encoder.norm_head.weight"] = torch.zeros(320)
    renamed["image_encoder.head.bias"] = torch.zeros(1000)
    renamed["image_encoder.layers.1.blocks.0.attn.attention_bias_idxs"] = torch.zeros(49, 49)
    return renamed, model.eval()


def test_official_layout_converts_to_the_same_network(tmp_path: Path) -> None:
    stored, reference = official_layout()
    assert "image_encoder.layers.0.downsample.conv3.bn.running_var" in stored
    torch.save(stored, tmp_path / "mobile_sam.pt")
    model = build_mobile_sam(64)
    load_checkpoint(model, tmp_path / "mobile_sam.pt", arch="vit_t")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.image_encoder(image)
        torch.testing.assert_close(model.image_encoder(image), expected, atol=1e-3, rtol=1e-3)


def test_official_layout_with_a_missing_key_is_refused(tmp_path: Path) -> None:
    stored, _ = official_layout()
    del stored["image_encoder.layers.2.blocks.3.local_conv.bn.weight"]
    torch.save(stored, tmp_path / "mobile_sam.pt")
    with pytest.raises(WeightsError, match=r"missing \['stages.2.blocks.3.local_conv.bn.weight'"):
        read_checkpoint(tmp_path / "mobile_sam.pt")


def test_loading_drops_cached_attention_biases(tmp_path: Path) -> None:
    stored, reference = official_layout()
    torch.save(stored, tmp_path / "mobile_sam.pt")
    model, image = build_mobile_sam(64), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.image_encoder(image)  # caches the biases of the random weights
        load_checkpoint(model, tmp_path / "mobile_sam.pt", arch="vit_t")
        found = model.image_encoder(image)
    torch.testing.assert_close(found, reference.image_encoder(image), atol=1e-3, rtol=1e-3)


@pytest.mark.assets
def test_the_asset_fits_strictly_and_is_converted_once(
    mobile_sam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_mobile_sam().load_state_dict(read_checkpoint(mobile_sam), strict=True)
    pair = mobile_sam if mobile_sam.is_dir() else mobile_sam.parent / "onnx"
    if not pair.is_dir():
        pytest.skip("the weights did not come as an ONNX pair")
    cache = tmp_path / "mobile_sam"
    cache.mkdir()
    (cache / "onnx").symlink_to(pair)
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path))
    state = read_checkpoint(cache / "onnx")
    kept = read_checkpoint(cache / "mobile_sam_converted.pth")
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in state)
    assert sorted(p.name for p in cache.iterdir()) == ["mobile_sam_converted.pth", "onnx"]


@pytest.mark.assets
def test_encoder_equals_its_onnx_original(mobile_sam: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pair = mobile_sam if mobile_sam.is_dir() else mobile_sam.parent / "onnx"
    if not pair.is_dir():
        pytest.skip("the weights did not come as an ONNX pair")
    model = build_mobile_sam()
    model.load_state_dict(convert_onnx_pair(pair), strict=True)
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(pair / "encoder.onnx"))
    expected = session.run(None, {"input": image.numpy()})[0]
    with torch.no_grad():
        found = model.eval().image_encoder(image)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h"])
def test_arch_is_recognized(arch: str) -> None:
    with torch.device("meta"):
        state = sam_model_registry[arch]().state_dict()
    assert guess_arch(state) == arch


def test_a_checkpoint_of_another_arch_is_named(tmp_path: Path) -> None:
    state = build_mobile_sam(64).state_dict()
    torch.save(state, tmp_path / "tiny.pth")
    with torch.device("meta"):
        model = sam_model_registry["vit_b"]()
    with pytest.raises(CheckpointMismatchError) as caught:
        load_checkpoint(model, tmp_path / "tiny.pth", arch="vit_b")
    message = str(caught.value)
    assert "tiny.pth: does not fit WEAKSAM.SAM.ARCH 'vit_b'; it looks like 'vit_t'" in message
    assert "Missing keys: ['image_encoder.blocks.0." in message
    assert "unexpected keys: ['image_encoder.neck" in message or "patch_embed.conv1" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a checkpoint", "cannot be read"), ([1, 2], "no state dict"), ({"a": 1}, "no state")],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "damaged.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=rf"damaged\.pth: .*{words}"):
        read_checkpoint(path)


def test_a_wrapped_state_dict_is_unwrapped(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "wrapped.pth")
    assert list(read_checkpoint(tmp_path / "wrapped.pth")) == ["a"]


def test_wrong_settings_are_refused_before_weights_are_fetched() -> None:
    with pytest.raises(ValueError, match="vit_x"):
        build_sam(arch="vit_x")
    with pytest.raises(ValueError, match="'vit_h' must be 1024, got 512"):
        build_sam(arch="vit_h", input_size=512)
    with pytest.raises(ValueError, match="multiple of 16, got 500"):
        build_mobile_sam(500)


def test_encoder_takes_sizes_that_are_no_square() -> None:
    encoder = TinyViTEncoder(64).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, 48, 80)).shape == (2, 256, 3, 5)
