"""Checkpoints of both families are recognized and loaded whole; everything else is named."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import Backbone, build_backbone
from torch import Tensor
from weaksam_d2.projects.dino.checkpoint import load_dino_checkpoint
from weaksam_d2.projects.dino.checkpoint_names import Names, rename
from weaksam_d2.projects.dino.network import DINONetwork, NetworkSettings

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.weights import WeightsError

pytest.importorskip("transformers")

FAMILIES = ("detrex", "IDEA")
FOUR = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
R50_BLOCKS = (3, 4, 6, 3)
State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def pair(name: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_norm(name: str, width: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts}


def backbone_shapes(family: str) -> Shapes:
    """ResNet-50, names as detectron2 and as torchvision have them."""
    detrex = family == "detrex"
    root = "backbone" if detrex else "backbone.0.body"
    stem, norm = ("stem.conv1", "stem.conv1.norm") if detrex else ("conv1", "bn1")
    table: Shapes = {f"{root}.{stem}.weight": (64, 3, 7, 7), **batch_norm(f"{root}.{norm}", 64)}
    given = 64
    for stage, blocks in enumerate(R50_BLOCKS):
        inner, out = 64 * 2**stage, 256 * 2**stage
        for j in range(blocks):
            block = f"{root}.{f'res{stage + 2}' if detrex else f'layer{stage + 1}'}.{j}"
            sizes = [(inner, given, 1, 1), (inner, inner, 3, 3), (out, inner, 1, 1)]
            convolutions = [
                (f"conv{i + 1}", f"conv{i + 1}.norm" if detrex else f"bn{i + 1}", size)
                for i, size in enumerate(sizes)
            ]
            if j == 0:
                names = (
                    ("shortcut", "shortcut.norm") if detrex else ("downsample.0", "downsample.1")
                )
                convolutions.append((*names, (out, given, 1, 1)))
            for name, norm, size in convolutions:
                table[f"{block}.{name}.weight"] = size
                table |= batch_norm(f"{block}.{norm}", size[0])
            given = out
    return table


def layer_shapes(family: str, width: int = 256, ffn: int = 2048) -> Shapes:
    table: Shapes = {}
    for stack in ("encoder", "decoder"):
        for i in range(6):
            root = f"transformer.{stack}.layers.{i}"
            decoder = stack == "decoder"
            if family == "detrex":
                crossed = f"{root}.attentions.1" if decoder else f"{root}.attentions.0"
                inner = f"{root}.attentions.0.attn"
                norms = [f"{root}.norms.{k}" for k in range(3 if decoder else 2)]
                ffns = f"{root}.ffns.0.layers.0.0", f"{root}.ffns.0.layers.1"
            else:
                crossed = f"{root}.cross_attn" if decoder else f"{root}.self_attn"
                inner = f"{root}.self_attn"
                norms = [f"{root}.norm{k + 1}" for k in range(3 if decoder else 2)]
                ffns = f"{root}.linear1", f"{root}.linear2"
            for part, rows in zip(FOUR, (256, 128, width, width), strict=True):
                table |= pair(f"{crossed}.{part}", (rows, width))
            if decoder:
                table |= {f"{inner}.in_proj_weight": (3 * width, width)}
                table |= {f"{inner}.in_proj_bias": (3 * width,)}
                table |= pair(f"{inner}.out_proj", (width, width))
            for norm in norms:
                table |= pair(norm, (width,))
            table |= pair(ffns[0], (ffn, width)) | pair(ffns[1], (width, ffn))
    return table


def published_shapes(family: str, classes: int, width: int = 256) -> Shapes:
    """Names and shapes of a 4-scale R50 checkpoint: the table of extras.md, Sec. 1.4."""
    detrex = family == "detrex"
    table = backbone_shapes(family) | layer_shapes(family)
    for i, channels in enumerate((512, 1024, 2048, 2048)):
        kernel = 3 if i == 3 else 1
        name = f"input_proj.{i}"
        if detrex:
            name = "neck.extra_convs.0" if i == 3 else f"neck.convs.{i}"
        conv, norm = ("conv", "norm") if detrex else ("0", "1")
        table |= pair(f"{name}.{conv}", (width, channels, kernel, kernel))
        table |= pair(f"{name}.{norm}", (width,))
    table |= pair("transformer.decoder.norm", (width,))
    table |= pair("transformer.decoder.ref_point_head.layers.0", (width, 2 * width))
    table |= pair("transformer.decoder.ref_point_head.layers.1", (width, width))
    table |= pair("transformer.enc_output", (width, width))
    table |= pair("transformer.enc_output_norm", (width,))
    table["transformer.tgt_embed.weight"] = (900, width)
    table[f"transformer.level_embed{'s' if detrex else ''}"] = (4, width)
    heads = {f"class_embed.{i}": f"bbox_embed.{i}" for i in range(7 if detrex else 6)}
    if not detrex:
        heads["transformer.enc_out_class_embed"] = "transformer.enc_out_bbox_embed"
    for class_head, box_head in heads.items():
        table |= pair(class_head, (classes, width))
        for layer, rows in enumerate((width, width, 4)):
            table |= pair(f"{box_head}.layers.{layer}", (rows, width))
    table["label_enc.weight"] = (classes if detrex else classes + 1, width)
    return table


def resnet(thin: bool) -> Backbone:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    if thin:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4, 8
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 2
    return build_backbone(cfg)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_and_shape_of_a_published_r50_has_its_place(family: str) -> None:
    with torch.device("meta"):
        model = DINONetwork(backbone=resnet(thin=False), settings=NetworkSettings(num_classes=80))
        state = {name: torch.empty(s) for name, s in published_shapes(family, 80).items()}
    renamed = rename(state, family, Names(decoder_layers=6, maps=3))
    if family == "IDEA":
        renamed["label_enc.weight"] = renamed["label_enc.weight"][:80]
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in renamed.items()} == wanted
    assert sum(p.numel() for p in model.parameters()) > 46_000_000


@pytest.fixture
def make_r50(make_network: Callable[..., DINONetwork]) -> Callable[..., DINONetwork]:
    """A thin ResNet-50 with the parts of a 4-scale model."""
    return lambda **changes: make_network(
        backbone=resnet(thin=True), in_features=("res3", "res4", "res5"), num_levels=4, **changes
    )


DETREX = {
    "self_attn_layer_norm": "norms.0", "encoder_attn_layer_norm": "norms.1",
    "mlp.fc1": "ffns.0.layers.0.0", "mlp.fc2": "ffns.0.layers.1", "encoder_attn": "attentions.1",
}  # fmt: skip
IDEA = {"mlp.fc1": "linear1", "mlp.fc2": "linear2", "encoder_attn": "cross_attn"}
IDEA_NORMS = {
    "encoder": {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"},
    "decoder": {
        "self_attn_layer_norm": "norm2", "encoder_attn_layer_norm": "norm1",
        "final_layer_norm": "norm3",
    },
}  # fmt: skip


def their_layer_name(name: str, family: str) -> str:
    stack, _, index, part = name.split(".", 3)
    table = {**IDEA, **IDEA_NORMS[stack]}
    if family == "detrex":
        last = "norms.2" if stack == "decoder" else "norms.1"
        own = "attentions.0.attn" if stack == "decoder" else "attentions.0"
        table = {**DETREX, "final_layer_norm": last, "self_attn": own}
    head, tail = part.rsplit(".", 1)
    for ours, theirs in table.items():
        if head == ours or head.startswith(ours + "."):
            head = theirs + head[len(ours) :]
            break
    return f"transformer.{stack}.layers.{index}.{head.replace('o_proj', 'out_proj')}.{tail}"


def their_backbone_name(name: str, family: str) -> str:
    if family == "detrex":
        return name
    parts = name.removeprefix("backbone.").replace("stem.", "").split(".")
    if parts[0].startswith("res"):
        parts[0] = f"layer{int(parts[0][3:]) - 1}"
    place = next(i for i, part in enumerate(parts) if part.startswith(("conv", "shortcut")))
    shortcut, norm = parts[place] == "shortcut", "norm" in parts
    if shortcut:
        parts[place] = f"downsample.{int(norm)}"
    elif norm:
        parts[place] = f"bn{parts[place][4:]}"
    return ".".join(["backbone.0.body", *(part for part in parts if part != "norm")])


def their_name(name: str, family: str) -> str:
    idea = family == "IDEA"
    if name.startswith(("encoder.layers.", "decoder.layers.")):
        return their_layer_name(name, family)
    if name.startswith("backbone."):
        return their_backbone_name(name, family)
    if name.startswith(("decoder.", "tgt_embed", "enc_output")):
        return f"transformer.{name}"
    if name == "level_embeds":
        return f"transformer.level_embed{'' if idea else 's'}"
    if idea and name.startswith("neck."):
        extra = name.startswith("neck.extra_convs.")
        index, part, tail = name.split(".")[2:]
        place = int(index) + 3 * extra
        return f"input_proj.{place}.{int(part == 'norm')}.{tail}"
    if idea and name.startswith(("class_embed.2.", "bbox_embed.2.")):  # of two decoder layers
        kind, _, rest = name.split(".", 2)
        return f"transformer.enc_out_{kind}.{rest}"
    return name


def published(model: DINONetwork, family: str) -> State:
    """The model's state as the family would have written it."""
    state: State = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        value = value.clone()
        if name.startswith("decoder.") and ".self_attn." in name and "o_proj" not in name:
            root, part, tail = name.rsplit(".", 2)
            merged = their_layer_name(f"{root}.x", family).removesuffix(".x")
            thirds.setdefault(f"{merged}.in_proj_{tail}", {})[part] = value
        else:
            state[their_name(name, family)] = value
    for name, parts in thirds.items():
        state[name] = torch.cat([parts[f"{part}_proj"] for part in "qkv"])
    for name in [n for n in state if n.startswith(("class_embed.", "bbox_embed."))]:
        state[f"transformer.decoder.{name}"] = state[name].clone()
    if family == "IDEA":
        unknown = torch.full((1, state["label_enc.weight"].shape[1]), 7.0)
        state["label_enc.weight"] = torch.cat([state["label_enc.weight"], unknown])
        state["backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(1)
    state["criterion.empty_weight"] = torch.ones(3)
    return state


def equal(a: DINONetwork, b: DINONetwork) -> list[str]:
    """Names of what differs."""
    other = b.state_dict()
    return [name for name, value in a.state_dict().items() if not value.equal(other[name])]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_comes_back_through_the_names_of_a_family(
    make_r50: Callable[..., DINONetwork], family: str, tmp_path: Path
) -> None:
    source, target = make_r50(), make_r50()
    with torch.no_grad():
        for value in (*source.parameters(), *source.buffers()):
            value.copy_(torch.randn_like(value))
    state = {f"module.{name}": value for name, value in published(source, family).items()}
    path = tmp_path / "dino.pth"
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 12}, path)
    assert len(equal(source, target)) > 100
    assert load_dino_checkpoint(target, path) == []
    assert equal(source, target) == []


def test_the_families_are_one_network_under_two_names(make_r50: Callable[..., Any]) -> None:
    model = make_r50()
    detrex, idea = (set(published(model, family)) for family in FAMILIES)
    layer = "transformer.decoder.layers.1."
    assert {f"{layer}attentions.0.attn.in_proj_weight", f"{layer}norms.1.weight"} <= detrex
    assert {f"{layer}self_attn.in_proj_weight", f"{layer}norm1.weight"} <= idea
    assert {"backbone.res2.0.shortcut.norm.running_var", "neck.extra_convs.0.conv.bias"} <= detrex
    assert {"backbone.0.body.layer1.0.downsample.1.running_var", "input_proj.3.0.bias"} <= idea


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_other_classes_stay_and_are_listed(
    make_r50: Callable[..., DINONetwork], family: str
) -> None:
    source, target = make_r50(), make_r50(num_classes=5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    left = load_dino_checkpoint(target, published(source, family))
    heads = [f"class_embed.{i}.{part}" for i in range(3) for part in ("weight", "bias")]
    assert sorted(left) == sorted([*heads, "label_enc.weight"])
    state = target.state_dict()
    assert all(state[name].equal(before[name]) for name in left)
    assert state["bbox_embed.2.layers.2.bias"].equal(
        source.state_dict()["bbox_embed.2.layers.2.bias"]
    )


def test_coco_rows_of_the_authors_are_category_ids(make_r50: Callable[..., DINONetwork]) -> None:
    source, target = make_r50(num_classes=91), make_r50(num_classes=80)
    rows = torch.arange(91.0)
    with torch.no_grad():
        for head in source.class_embed:
            head.bias.copy_(rows)  # type: ignore[union-attr,operator]
        source.label_enc.weight.copy_(rows[:, None].expand(-1, 32))
    assert load_dino_checkpoint(target, published(source, "IDEA")) == []
    for values in (target.class_embed[2].bias, target.label_enc.weight[:, 0]):
        ids = values.int().tolist()  # type: ignore[operator,union-attr]
        assert ids[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13] and ids[-1] == 90
        assert len(ids) == 80 and ids == sorted(ids)
    other = make_r50(num_classes=20)
    assert len(load_dino_checkpoint(other, published(source, "IDEA"))) == 7


def test_what_does_not_fit_is_named_and_changes_nothing(
    make_r50: Callable[..., DINONetwork], tmp_path: Path
) -> None:
    model = make_r50()
    good = published(model, "detrex")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def refused(state: State, message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            load_dino_checkpoint(model, {k: v + 1 if v.is_floating_point() else v
                                         for k, v in state.items()})  # fmt: skip
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())

    less = {k: v for k, v in good.items() if k != "transformer.enc_output.bias"}
    refused(less, "Missing: enc_output.bias; superfluous: none; other shapes: none")
    refused({**good, "transformer.extra": torch.ones(1)}, "superfluous: transformer.extra;")
    refused({**good, "transformer.level_embeds": torch.ones(5, 32)}, "level_embeds \\(5, 32\\)")
    copy = "transformer.decoder.class_embed.1.bias"
    refused({**good, copy: good[copy] + 1}, f"'{copy}' must be a copy of 'class_embed.1.bias'")
    refused({**good, "transformer.decoder.class_embed.9.bias": torch.ones(3)}, "class_embed.9.bias")
    refused({k: v for k, v in good.items() if not k.startswith("class_embed.0")},
            "must be a copy of 'class_embed.0")  # fmt: skip
    refused(before, "no DINO checkpoint of detrex or IDEA.*first names are .*MODEL.WEIGHTS")
    with pytest.raises(WeightsError, match="nowhere.pth"):
        load_dino_checkpoint(model, tmp_path / "nowhere.pth")
