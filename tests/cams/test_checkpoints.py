"""Published weights: every kind is recognized and loaded whole, everything else is named."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from weaksam_d2.cams import ImageClassifier, MCTformer, WeakTr, check_pretrained
from weaksam_d2.cams.checkpoints import IMAGENET, identify
from weaksam_d2.cams.class_token_vit import ClassTokenViT
from weaksam_d2.cams.weaktr import AttentionFusion
from weaksam_d2.weights import WeightsError

WIDTH, HEADS, DEPTH = 24, 6, 2  # 12 attention maps
KINDS = ("WeakTr v1", "WeakTr v2", "WeakTr v3", "MCTformer V1", "MCTformer V2", "MCTformer Plus")


def shapes_of(
    kind: str, channels: int, width: int, depth: int, heads: int, grid: int
) -> dict[str, Any]:
    """Names and shapes of a published checkpoint: the table of wsss.md, Sec. 3.2."""
    w, maps, reduction = width, depth * heads, 8 if depth == 12 else 2
    table: dict[str, tuple[int, ...]] = {
        "cls_token": (1, channels, w),
        "pos_embed": (1, channels + grid, w),
        "patch_embed.proj.weight": (w, 3, 16, 16),
        "patch_embed.proj.bias": (w,),
        "norm.weight": (w,),
        "norm.bias": (w,),
    }
    for i in range(depth):
        for name, shape in (
            ("norm1", (w,)), ("norm2", (w,)), ("attn.qkv", (3 * w, w)), ("attn.proj", (w, w)),
            ("mlp.fc1", (4 * w, w)), ("mlp.fc2", (w, 4 * w)),
        ):  # fmt: skip
            table[f"blocks.{i}.{name}.weight"], table[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
    if kind == IMAGENET:
        return {**table, "head.weight": (1000, w), "head.bias": (1000,)}
    if kind != "MCTformer V1":
        table |= {"head.weight": (channels, w, 3, 3), "head.bias": (channels,)}
    if kind == "MCTformer Plus":
        table |= {"pos_embed": (1, 1 + 196, w), "pos_embed_cls": (1, channels, w),
                  "pos_embed_pat": (1, grid, w)}  # fmt: skip
    fusion = "adaptive_attention_fusion"
    gate = "fc" if kind == "WeakTr v1" else "attn_head_ffn"
    if kind.startswith("WeakTr"):
        table |= {f"{fusion}.{gate}.0.weight": (maps // reduction, maps),
                  f"{fusion}.{gate}.2.weight": (maps, maps // reduction)}  # fmt: skip
    if kind == "WeakTr v3":
        table |= {f"{fusion}.attn_feat_ffn.0.weight": (8, w // heads),
                  f"{fusion}.attn_feat_ffn.0.bias": (8,),
                  f"{fusion}.attn_feat_ffn.1.weight": (1, 8),
                  f"{fusion}.attn_feat_ffn.1.bias": (1,)}  # fmt: skip
    return table


def tiny_state(kind: str, channels: int = 5, grid: int = 4) -> dict[str, Tensor]:
    shapes = shapes_of(kind, channels, WIDTH, DEPTH, HEADS, grid)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def tiny_network(
    kind: str, weights: str = "", *, channels: int = 5, interp: str = "", **fusion: Any
) -> WeakTr | MCTformer:
    vit = ClassTokenViT(
        vit=VisionTransformer(
            32, num_classes=0, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS
        ),
        num_channels=channels,
        pos_interp=interp or ("size" if kind == "MCTformer Plus" else "scale"),  # type: ignore[arg-type]
        head=kind != "MCTformer V1",
        separate_positions=kind == "MCTformer Plus",
    )  # fmt: skip
    name, version = kind.split()
    if name == "MCTformer":
        return MCTformer(
            vit=vit, channels=range(channels), version=version, layers=1, weights=weights  # type: ignore[arg-type]
        )  # fmt: skip
    settings: dict[str, Any] = {"fusion": version, "reduction": 2, **fusion}
    made = AttentionFusion(blocks=DEPTH, heads=HEADS, head_width=WIDTH // HEADS, **settings)
    return WeakTr(vit=vit, channels=range(channels), fusion=made, weights=weights)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], str]:
    def save_file(content: Any) -> str:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return str(path)

    return save_file


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_published_file_arrives(kind: str, save: Any) -> None:
    state = tiny_state(kind)
    prefixed = {f"module.{name}": value for name, value in state.items()}
    args = argparse.Namespace(lr=6e-4)
    network = tiny_network(kind, save({"model": prefixed, "epoch": 59, "args": args}))
    own = network.state_dict()
    if kind == "MCTformer Plus":
        del state["pos_embed"]
    assert len(own) == len(state)
    for name, value in state.items():
        place = name if name.startswith("adaptive") else f"vit.{name}"
        assert torch.equal(own[place], value), name
    assert network.pretrained


@pytest.mark.parametrize(("kind", "channels"), [("WeakTr v3", 20), ("WeakTr v1", 90),
                                                ("MCTformer V2", 80)])  # fmt: skip
def test_the_network_of_true_size_has_the_published_names(kind: str, channels: int) -> None:
    expected = shapes_of(kind, channels, 384, 12, 6, 196)
    name, version = kind.split()
    with torch.device("meta"):
        tower = VisionTransformer(embed_dim=384, depth=12, num_heads=6, num_classes=0)
        vit = ClassTokenViT(vit=tower, num_channels=channels)
        network: Any = MCTformer(vit=vit, channels=range(channels))
        if name == "WeakTr":
            fusion = AttentionFusion(blocks=12, heads=6, head_width=64, fusion=version)  # type: ignore[arg-type]
            network = WeakTr(vit=vit, channels=range(channels), fusion=fusion)
    own = {k.removeprefix("vit."): tuple(v.shape) for k, v in network.state_dict().items()}
    assert own == expected
    meta = {key: torch.empty(shape, device="meta") for key, shape in expected.items()}
    assert identify(meta, Path("x")) == kind


def test_what_is_missing_superfluous_or_misshapen_is_listed(save: Any) -> None:
    state = tiny_state("WeakTr v3")
    del state["blocks.1.norm2.weight"]
    state["dummy"] = torch.zeros(1)
    state["norm.bias"] = torch.zeros(WIDTH + 1)
    with pytest.raises(WeightsError) as error:
        tiny_network("WeakTr v3", save(state))
    text = str(error.value)
    assert "weights.pth" in text
    assert "Missing: blocks.1.norm2.weight; superfluous: dummy; " in text
    assert "other shapes: norm.bias (25,) instead of (24,)" in text


@pytest.mark.parametrize(
    ("kind", "built", "options", "message"),
    [
        ("WeakTr v1", "WeakTr v3", {}, "WeakTr v1 checkpoint, .* WeakTr v3; .*WEAKTR.FUSION v1"),
        ("MCTformer Plus", "MCTformer V2", {}, "MCTformer Plus checkpoint, .*VERSION Plus"),
        ("MCTformer V2", "WeakTr v3", {}, "NETWORK MCTformer and .*VERSION V2"),
        ("WeakTr v3", "WeakTr v3", {"channels": 3}, "5 channels, .* 3; .*NUM_CLASSES 5"),
        ("MCTformer V1", "MCTformer V1", {"channels": 3}, "5 channels, .* 3; .*NUM_CLASSES 5"),
        ("WeakTr v3", "WeakTr v3", {"reduction": 4}, "6 hidden units, .* 3; .*REDUCTION 2"),
        ("WeakTr v3", "WeakTr v3", {"interp": "size"}, "need .*POS_INTERP scale"),
        ("MCTformer Plus", "MCTformer Plus", {"interp": "scale"}, "need .*POS_INTERP size"),
    ],
)  # fmt: skip
def test_a_config_that_contradicts_the_file_is_named(
    kind: str, built: str, options: dict[str, Any], message: str, save: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_network(built, save(tiny_state(kind)), **options)


def test_a_head_of_90_channels_asks_for_category_ids(save: Any) -> None:
    state = tiny_state("WeakTr v3", channels=90)
    with pytest.raises(ValueError, match="90 channels, .*CHANNELS coco_category_ids"):
        tiny_network("WeakTr v3", save(state), channels=80)
    assert tiny_network("WeakTr v3", save(state), channels=90).pretrained


@pytest.mark.parametrize("kind", ["WeakTr v3", "MCTformer Plus"])
def test_imagenet_weights_start_every_class_alike(kind: str, save: Any) -> None:
    state = tiny_state(IMAGENET, channels=1, grid=9)  # of another grid than ours, 2 x 2
    torch.manual_seed(1)
    network = tiny_network(kind, save({"model": state}), interp="size")
    assert not network.pretrained
    own = network.vit.state_dict()
    assert torch.equal(own["cls_token"], state["cls_token"].expand(1, 5, WIDTH))
    assert torch.equal(own["blocks.1.mlp.fc2.weight"], state["blocks.1.mlp.fc2.weight"])
    assert own["head.weight"].shape == (5, WIDTH, 3, 3)  # ours, not the file's
    if kind == "MCTformer Plus":
        classes, patches = own["pos_embed_cls"], own["pos_embed_pat"]
    else:
        classes, patches = own["pos_embed"][:, :5], own["pos_embed"][:, 5:]
    assert torch.equal(classes, state["pos_embed"][:, :1].expand(1, 5, WIDTH))
    plane = state["pos_embed"][:, 1:].reshape(1, 3, 3, WIDTH).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(plane, (2, 2), mode="bicubic")
    assert torch.allclose(patches, resized.permute(0, 2, 3, 1).reshape(1, 4, WIDTH))


def test_imagenet_weights_of_another_size_are_refused(save: Any) -> None:
    state = tiny_state(IMAGENET, channels=1)
    state["blocks.0.attn.qkv.weight"] = torch.zeros(1, WIDTH)
    with pytest.raises(
        WeightsError, match="ImageNet DeiT weights do not fit.*MODEL.CLASSIFIER.VIT"
    ):
        tiny_network("MCTformer V2", save(state))
    state["pos_embed"] = torch.zeros(1, 8, WIDTH)
    with pytest.raises(WeightsError, match="7 patch positions are not a square"):
        tiny_network("MCTformer V2", save(state))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"network.vit.cls_token": torch.zeros(1)}}, "trained by this package.*--input"),
        ({"cls_token": torch.zeros(1, 2, 4), "dist_token": torch.zeros(1)}, "distilled"),
        ({"conv1.weight": torch.zeros(1)}, r"none of WeakTr v1.*first names are \['conv1"),
        ({"model": [1, 2]}, "holds no state dict"),
        ({}, "holds no state dict"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, save: Any) -> None:
    with pytest.raises(WeightsError, match=message):
        tiny_network("WeakTr v3", save(content))


def test_damaged_and_absent_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(WeightsError, match="broken.pth: cannot be read"):
        tiny_network("WeakTr v3", str(path))
    with pytest.raises(WeightsError, match="neither a file"):
        tiny_network("WeakTr v3", str(tmp_path / "absent.pth"))


def test_only_a_trained_classifier_may_give_maps(save: Any) -> None:
    def model(weights: str) -> ImageClassifier:
        network = tiny_network("WeakTr v3", weights)
        mean = [0.0, 0.0, 0.0]
        return ImageClassifier(network=network, num_classes=5, pixel_mean=mean, pixel_std=[1.0] * 3)

    for untrained in (model(""), model(save(tiny_state(IMAGENET, channels=1)))):
        with pytest.raises(ValueError, match="WeakTr is not trained: give a checkpoint"):
            check_pretrained(untrained)
    with pytest.raises(ValueError, match="Linear is not trained"):
        check_pretrained(torch.nn.Linear(1, 1))
    check_pretrained(model(save(tiny_state("WeakTr v3"))))
    check_pretrained(untrained.requires_grad_(False))  # nothing to train, as CLIP-ES
