"""Published names: the official repository's, both versions, and transformers'."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from weaksam_d2.projects.mask2former import Mask2Former, load_published
from weaksam_d2.projects.mask2former.checkpoint_names import (
    family_of,
    hub_name,
    official_name,
    to_official,
)

from weaksam_d2.weights import WeightsError

RESNET = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 2, "MODEL.RESNETS.STRIDE_IN_1X1", False),
    *("MODEL.MASK2FORMER.IN_FEATURES", ("res2", "res3", "res4", "res5")),
)
P, D, S = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.", "sem_seg_head."


def fresh(tiny_model: Callable[..., Mask2Former], *changes: Any) -> Mask2Former:
    model = tiny_model(*RESNET, *changes)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator))
    return model


# What the official repository saves of a model of width 32, 3 classes, 10 queries, 1 + 2 layers.
WIDTH, FFN = 32, 32
OFFICIAL_SHAPES: dict[str, tuple[int, ...]] = {
    "backbone.stem.conv1.weight": (4, 3, 7, 7),
    "backbone.stem.conv1.norm.running_var": (4,),
    "backbone.res2.0.shortcut.weight": (8, 4, 1, 1),
    "backbone.res5.2.conv3.norm.bias": (64,),
    P + "input_proj.0.0.weight": (WIDTH, 64, 1, 1),
    P + "input_proj.2.1.bias": (WIDTH,),
    P + "transformer.level_embed": (3, WIDTH),
    P + "transformer.encoder.layers.0.self_attn.sampling_offsets.weight": (96, WIDTH),
    P + "transformer.encoder.layers.0.self_attn.attention_weights.bias": (48,),
    P + "transformer.encoder.layers.0.self_attn.value_proj.weight": (WIDTH, WIDTH),
    P + "transformer.encoder.layers.0.self_attn.output_proj.bias": (WIDTH,),
    P + "transformer.encoder.layers.0.norm1.weight": (WIDTH,),
    P + "transformer.encoder.layers.0.linear1.weight": (FFN, WIDTH),
    P + "transformer.encoder.layers.0.linear2.bias": (WIDTH,),
    P + "transformer.encoder.layers.0.norm2.bias": (WIDTH,),
    P + "adapter_1.weight": (WIDTH, 8, 1, 1),
    P + "adapter_1.norm.weight": (WIDTH,),
    P + "layer_1.weight": (WIDTH, WIDTH, 3, 3),
    P + "layer_1.norm.bias": (WIDTH,),
    P + "mask_features.weight": (WIDTH, WIDTH, 1, 1),
    D + "query_feat.weight": (10, WIDTH),
    D + "query_embed.weight": (10, WIDTH),
    D + "level_embed.weight": (3, WIDTH),
    D + "transformer_cross_attention_layers.1.multihead_attn.in_proj_weight": (96, WIDTH),
    D + "transformer_cross_attention_layers.1.multihead_attn.in_proj_bias": (96,),
    D + "transformer_cross_attention_layers.1.multihead_attn.out_proj.weight": (WIDTH, WIDTH),
    D + "transformer_cross_attention_layers.1.norm.weight": (WIDTH,),
    D + "transformer_self_attention_layers.1.self_attn.in_proj_weight": (96, WIDTH),
    D + "transformer_self_attention_layers.1.self_attn.in_proj_bias": (96,),
    D + "transformer_self_attention_layers.1.self_attn.out_proj.bias": (WIDTH,),
    D + "transformer_self_attention_layers.1.norm.bias": (WIDTH,),
    D + "transformer_ffn_layers.1.linear1.bias": (FFN,),
    D + "transformer_ffn_layers.1.linear2.weight": (WIDTH, FFN),
    D + "transformer_ffn_layers.1.norm.weight": (WIDTH,),
    D + "decoder_norm.weight": (WIDTH,),
    D + "class_embed.weight": (4, WIDTH),
    D + "mask_embed.layers.2.weight": (WIDTH, WIDTH),
}
HUB_NAMES = {
    "backbone.stem.conv1.norm.running_mean": (
        "model.pixel_level_module.encoder.embedder.embedder.normalization.running_mean"
    ),
    "backbone.res3.1.conv2.weight": (
        "model.pixel_level_module.encoder.encoder.stages.1.layers.1.layer.1.convolution.weight"
    ),
    "backbone.res2.0.shortcut.norm.bias": (
        "model.pixel_level_module.encoder.encoder.stages.0.layers.0.shortcut.normalization.bias"
    ),
    "pixel_decoder.decoder.encoder.layers.3.self_attn_layer_norm.bias": (
        "model.pixel_level_module.decoder.encoder.layers.3.self_attn_layer_norm.bias"
    ),
    "pixel_decoder.decoder.mask_projection.weight": (
        "model.pixel_level_module.decoder.mask_projection.weight"
    ),
    "predictor.transformer.queries_features.weight": (
        "model.transformer_module.queries_features.weight"
    ),
    "predictor.transformer.decoder.layers.0.self_attn.q_proj.bias": (
        "model.transformer_module.decoder.layers.0.self_attn.q_proj.bias"
    ),
    "predictor.transformer.decoder.mask_predictor.mask_embedder.1.0.weight": (
        "model.transformer_module.decoder.mask_predictor.mask_embedder.1.0.weight"
    ),
    "predictor.class_predictor.bias": "class_predictor.bias",
}


def test_official_names_and_shapes_are_the_published_ones(
    tiny_model: Callable[..., Mask2Former],
) -> None:
    state = to_official(fresh(tiny_model).state_dict())
    found = {name: tuple(state[name].shape) for name in OFFICIAL_SHAPES if name in state}
    assert found == OFFICIAL_SHAPES
    assert all(name.startswith(("backbone.", P, D)) for name in state)
    assert family_of(state) == "official"


def test_a_model_survives_the_way_to_official_names_and_back(
    tiny_model: Callable[..., Mask2Former],
) -> None:
    model = fresh(tiny_model)
    official = to_official(model.state_dict())
    official |= {"criterion.empty_weight": torch.ones(4), "pixel_mean": torch.zeros(3, 1, 1)}
    other = tiny_model(*RESNET)
    assert load_published(other, official) == []
    for name, value in other.state_dict().items():
        assert value.equal(model.state_dict()[name]), name


def test_thirds_of_a_projection_are_queries_keys_and_values(
    tiny_model: Callable[..., Mask2Former],
) -> None:
    model = fresh(tiny_model)
    joint = D + "transformer_self_attention_layers.0.self_attn.in_proj_weight"
    official = to_official(model.state_dict())
    own = model.predictor.transformer.decoder.layers[0].self_attn
    for number, part in enumerate((own.q_proj, own.k_proj, own.v_proj)):
        assert official[joint][32 * number : 32 * (number + 1)].equal(part.weight)
    assert official_name("predictor.transformer.decoder.layers.4.self_attn.v_proj.bias") == (
        D + "transformer_self_attention_layers.4.self_attn.in_proj_bias",
        2,
    )


def test_names_of_the_first_version_are_read(tiny_model: Callable[..., Mask2Former]) -> None:
    model = fresh(tiny_model)
    old = {}
    for name, value in to_official(model.state_dict()).items():
        name = name.replace("predictor.query_feat.", "predictor.static_query.")
        old["module." + name.replace(P, S)] = value
    other = tiny_model(*RESNET)
    assert load_published(other, old) == []
    assert other.state_dict()["pixel_decoder.decoder.level_embed"].equal(
        model.state_dict()["pixel_decoder.decoder.level_embed"]
    )


def test_names_of_transformers_are_read(tiny_model: Callable[..., Mask2Former]) -> None:
    assert {name: hub_name(name)[0] for name in HUB_NAMES} == HUB_NAMES
    model = fresh(tiny_model)
    hub = {hub_name(name)[0]: value for name, value in model.state_dict().items()}
    hub["model.pixel_level_module.encoder.embedder.embedder.normalization.num_batches_tracked"] = (
        torch.tensor(1)
    )
    other = tiny_model(*RESNET)
    assert load_published(other, hub) == []
    for name, value in other.state_dict().items():
        assert value.equal(model.state_dict()[name]), name


def test_other_classes_leave_the_class_head_and_say_so(
    tiny_model: Callable[..., Mask2Former], caplog: pytest.LogCaptureFixture
) -> None:
    official = to_official(fresh(tiny_model).state_dict())
    other = tiny_model(*RESNET, "MODEL.ROI_HEADS.NUM_CLASSES", 5)
    before = other.predictor.class_predictor.weight.clone()
    left = load_published(other, official)
    assert left == ["predictor.class_predictor.weight", "predictor.class_predictor.bias"]
    assert "(4, 32) instead of (6, 32)" in caplog.text
    assert other.predictor.class_predictor.weight.equal(before)
    wanted = official[D + "query_feat.weight"]
    assert other.predictor.transformer.queries_features.weight.equal(wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(D + "decoder_norm.bias"), r"Missing: sem_seg_head.predictor.decoder_norm"),
        (lambda s: s.update({D + "extra": torch.ones(1)}), "superfluous: sem_seg_head.*extra"),
        (
            lambda s: s.update({D + "query_feat.weight": torch.ones(3, 32)}),
            r"queries_features.weight \(3, 32\) instead of \(10, 32\)",
        ),
    ],
)
def test_anything_else_that_does_not_fit_is_an_error_and_changes_nothing(
    tiny_model: Callable[..., Mask2Former], change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    official = to_official(fresh(tiny_model).state_dict())
    change(official)
    other = tiny_model(*RESNET)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_published(other, official)
    assert all(value.equal(before[name]) for name, value in other.state_dict().items())


def test_files_of_three_kinds_are_read_when_the_model_is_built(
    tiny_model: Callable[..., Mask2Former], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    model = fresh(tiny_model)
    official = to_official(model.state_dict())
    torch.save({"model": official}, tmp_path / "a.pth")
    save_file({k: v.contiguous() for k, v in official.items()}, tmp_path / "a.safetensors")
    arrays = {name: value.numpy() for name, value in official.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "third party"}))
    for kind in ("pth", "safetensors", "pkl"):
        other = tiny_model(*RESNET, "MODEL.MASK2FORMER.WEIGHTS", str(tmp_path / f"a.{kind}"))
        name = "predictor.class_predictor.weight"
        assert other.state_dict()[name].equal(model.state_dict()[name]), kind


def test_a_file_of_something_else_is_named(
    tiny_model: Callable[..., Mask2Former], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match=r"other.pth has no names of Mask2Former"):
        tiny_model(*RESNET, "MODEL.MASK2FORMER.WEIGHTS", str(path))
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([np.ones(2)]))
    with pytest.raises(WeightsError, match=r"list.pkl: holds no names"):
        tiny_model(*RESNET, "MODEL.MASK2FORMER.WEIGHTS", str(tmp_path / "list.pkl"))


def test_a_backbone_file_beside_a_whole_model_is_refused(
    tiny_model: Callable[..., Mask2Former],
) -> None:
    with pytest.raises(ValueError, match="would replace its backbone"):
        tiny_model(
            *("MODEL.MASK2FORMER.WEIGHTS", "a.pkl"),
            *("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/torchvision/R-50.pkl"),
        )


def test_a_backbone_that_the_file_has_not_is_named(tiny_model: Callable[..., Mask2Former]) -> None:
    hub = {hub_name(n)[0]: v for n, v in fresh(tiny_model).state_dict().items()}
    with pytest.raises(WeightsError, match="The backbone and MODEL.MASK2FORMER must describe"):
        load_published(tiny_model(), hub)


SWIN = (
    *("MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.SWIN.EMBED_DIM", 8),
    *("MODEL.SWIN.DEPTHS", (1, 2, 1, 1), "MODEL.SWIN.NUM_HEADS", (1, 2, 2, 2)),
    *("MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.SWIN.DROP_PATH_RATE", 0.0),
    *("MODEL.MASK2FORMER.IN_FEATURES", ("p0", "p1", "p2", "p3")),
)
SWIN_NAMES = (
    *("patch_embed.proj.weight", "patch_embed.norm.bias", "norm0.weight", "norm3.bias"),
    *("layers.1.blocks.1.norm1.weight", "layers.1.blocks.1.attn.qkv.weight"),
    *("layers.1.blocks.1.attn.proj.bias", "layers.1.blocks.1.mlp.fc2.weight"),
    *("layers.1.blocks.1.attn.relative_position_bias_table", "layers.2.downsample.norm.bias"),
    *("layers.2.downsample.reduction.weight", "layers.3.blocks.0.norm2.bias"),
)


def test_an_official_swin_model_is_read(tiny_model: Callable[..., Mask2Former]) -> None:
    model, other = tiny_model(*SWIN), tiny_model(*SWIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    official = to_official(model.state_dict())
    assert {f"backbone.{name}" for name in SWIN_NAMES} <= set(official)
    index = "backbone.layers.0.blocks.0.attn.relative_position_index"
    official[index] = official[index] * 0  # a table, not a weight: the model has its own
    assert load_published(other, official) == []
    state = model.state_dict()
    assert all(value.equal(state[name]) for name, value in other.state_dict().items())
    with torch.no_grad():
        found = other.eval()([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8)}])
    assert found[0]["instances"].image_size == (50, 70)
