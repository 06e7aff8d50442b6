"""Patches from a CNN: their grid, that they take part in learning, and what is refused."""

from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone

from weaksam_d2.cams import MCTformer, WeakTr
from weaksam_d2.cams.class_token_vit import ClassTokenViT, build_vit
from weaksam_d2.cams.cnn_patches import CnnPatches, build_patches
from weaksam_d2.engine.cli import base_config


@pytest.fixture
def cfg() -> Any:
    made = base_config()
    made.MODEL.ROI_HEADS.NUM_CLASSES = 3
    made.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    made.MODEL.TIMM.OUT_INDICES = (3, 4)
    made.MODEL.TIMM.FREEZE_AT = 5
    node = made.MODEL.CLASSIFIER
    node.VIT, node.DEPTH, node.PATCHES = "test_vit", 2, "cnn"
    node.WEAKTR.REDUCTION, node.MCTFORMER.LAYERS = 2, 2
    made.WEAKSAM.CAMS.CROSS_BLOCKS = (1, 2)
    return made


def test_a_patch_is_the_standardized_feature_of_its_cell(patch_mean: type[Backbone]) -> None:
    patches = CnnPatches(patch_mean(), width=5).eval()
    patches.standardize.running_mean.fill_(1.0)
    patches.standardize.running_var.fill_(4.0)
    images = torch.randn(2, 3, 79, 64)  # 15 rows are no whole patch
    found = patches(images)
    assert found.shape == (2, 5, 4, 4)
    cell = images[1, :, 32:48, 16:32].mean(dim=(1, 2))
    weight = patches.project.weight[:, :, 0, 0]
    expected = weight @ ((cell - 1) / (4 + 1e-5) ** 0.5) + patches.project.bias
    assert torch.allclose(found[1, :, 2, 1], expected, atol=1e-5)


def test_a_backbone_of_another_stride_is_refused(patch_mean: type[Backbone]) -> None:
    backbone = patch_mean()
    backbone._out_feature_strides = {"patches": 8}
    with pytest.raises(ValueError, match=r"one level of stride 16.* strides \[8\]"):
        CnnPatches(backbone, width=5)


@pytest.mark.parametrize("network", [WeakTr, MCTformer])
def test_networks_with_class_tokens_take_them(cfg: Any, network: type[Any]) -> None:
    made = network(cfg)
    assert isinstance(made.vit.patch_embed.proj, CnnPatches) and made.vit.depth == 2
    image = torch.randn(3, 70, 96)
    maps = made.eval().maps(image, torch.tensor([2, 0]))
    assert maps.coarse.shape == maps.fine.shape == (2, 4, 6)
    assert maps.cross.shape[0] == 2 and maps.cross.shape[-2:] == (4, 6)
    terms = made.train().class_logits(torch.randn(2, 3, 64, 64))
    sum(term.square().sum() for term in terms).backward()
    patches = made.vit.patch_embed.proj
    assert patches.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in patches.backbone.parameters())


def test_the_tokens_are_those_of_a_transformer_with_this_embedding(cfg: Any) -> None:
    vit = build_vit("test_vit", depth=1)
    patches = build_patches(cfg, vit.embed_dim)
    assert patches is not None
    made = ClassTokenViT(vit=vit, num_channels=2, patches=patches).eval()
    seen = []
    made.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    image = torch.randn(1, 3, 48, 32)
    made.tokens(image)
    positions = made._positions((3, 2), square_image=False)
    expected = patches.eval()(image).flatten(2).transpose(1, 2)
    assert torch.allclose(seen[0][:, 2:] - positions[:, 2:], expected, atol=1e-5)


def test_choices_that_do_not_fit_are_refused(cfg: Any) -> None:
    cfg.MODEL.CLASSIFIER.WEIGHTS = "weaktr.pth"
    with pytest.raises(ValueError, match=r"'weaktr.pth' are of a plain transformer"):
        build_patches(cfg, 64)
    cfg.MODEL.CLASSIFIER.PATCHES = "conv"
    with pytest.raises(ValueError, match=r"PATCHES is 'conv', allowed"):
        build_patches(cfg, 64)
    cfg.MODEL.CLASSIFIER.PATCHES = "pixels"
    assert build_patches(cfg, 64) is None
