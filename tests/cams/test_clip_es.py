"""CLIP-ES: maps against a slow formulation with whole forward passes, and logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2 import add_weaksam_config
from weaksam_d2.cams import CLIP, CLIPES, FrozenNetworkError, ImageClassifier, load_clip
from weaksam_d2.cams.clip_es import RefinementSettings
from weaksam_d2.cams.clip_prompts import background_words
from weaksam_d2.engine.training.optimizer import build_optimizer

NAMES = ["cat", "dog", "person", "bird"]
GROUND = ["sky", "sea", "grass"]


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> CLIP:
    return load_clip(str(clip_folder))


def make_network(clip: CLIP, **changes: Any) -> CLIPES:
    arguments: dict[str, Any] = {
        "class_names": NAMES,
        "background": GROUND,
        "refinement": RefinementSettings(blocks=2),
        "cross_blocks": (2, 3),
    }
    return CLIPES(clip=clip, **{**arguments, **changes}).eval()


@pytest.fixture
def network(clip: CLIP) -> CLIPES:
    return make_network(clip)


def view(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def text_rows(clip: CLIP, names: Sequence[str]) -> Tensor:
    return torch.cat([clip.text_features([f"a clean origami {name}."]) for name in names])


def slow_scores(clip: CLIP, tokens: Tensor, first_norm: Tensor, texts: Tensor) -> Tensor:
    """Logits of the texts, from the last block on: its input tokens and its first norm."""
    block = clip.layers[-1]
    heads, width = clip.heads, tokens.shape[-1]
    out = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        query, key, value = (
            F.linear(first_norm, layer.weight[part], layer.bias[part])
            for layer in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
        )
        attention = torch.softmax(query @ key.T / (width / heads) ** 0.5, dim=1)
        out.append(attention @ value)
    tokens = tokens + block.self_attn.out_proj(torch.cat(out, dim=1))
    hidden = block.mlp.fc1(block.layer_norm2(tokens))
    tokens = tokens + block.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
    patches = clip.model.vision_model.post_layernorm(tokens)[1:]
    feature = (patches @ clip.model.visual_projection.weight.T).mean(dim=0)
    return clip.scale * texts @ feature / feature.norm()


def slow_maps(
    clip: CLIP, image: Tensor, names: Sequence[str], blocks: int
) -> tuple[Tensor, Tensor]:
    """Coarse and fine maps; the whole network runs again for each class, and T is squared."""
    height, width = image.shape[-2] // 16, image.shape[-1] // 16
    texts = text_rows(clip, [*names, *GROUND])
    coarse, fine = [], []
    for row in range(len(names)):
        tokens, mean_attention = clip.embed(image[None]), []
        for layer in clip.layers[:-1]:
            attended, attention = clip.attend(layer, layer.layer_norm1(tokens))
            mean_attention.append(attention[0].sum(dim=0) / clip.heads)
            tokens = clip.finish(layer, tokens, attended)
        last = clip.layers[-1]
        _, attention = clip.attend(last, last.layer_norm1(tokens))
        mean_attention.append(attention[0].sum(dim=0) / clip.heads)
        first_norm = last.layer_norm1(tokens)[0].detach().requires_grad_()
        probability = slow_scores(clip, tokens[0], first_norm, texts).softmax(dim=0)
        (gradient,) = torch.autograd.grad(probability[row], first_norm)
        weights = gradient[1:].mean(dim=0)
        cam = torch.relu((first_norm.detach()[1:] * weights).sum(dim=1))
        cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-7)
        coarse.append(cam.reshape(height, width))
        affinity = torch.stack(mean_attention[-blocks:]).mean(dim=0)[1:, 1:]
        for _ in range(3):
            affinity = affinity / affinity.sum(dim=0)[None, :]
            affinity = affinity / affinity.sum(dim=1)[:, None]
        transition = (affinity + affinity.T) / 2
        refined = (transition @ transition) @ (slow_box(coarse[-1]).flatten() * cam)
        refined = (refined - refined.min()) / (refined.max() - refined.min() + 1e-7)
        fine.append(refined.reshape(height, width))
    return torch.stack(coarse), torch.stack(fine)


def slow_box(cam: Tensor) -> Tensor:
    """Boxes around 8-connected components above 0.4 of the maximum: grow boxes till none joins."""
    levels = (cam * 255).int()
    bright = levels > int(0.4 * levels.max())
    label = torch.arange(1, cam.numel() + 1).reshape(cam.shape) * bright
    for _ in range(cam.numel()):
        spread = F.max_pool2d(label[None].float(), 3, stride=1, padding=1)[0].int()
        label = spread * bright
    mask = torch.zeros_like(cam)
    for value in label[bright].unique():
        ys, xs = torch.nonzero(label == value, as_tuple=True)
        mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = 1
    return mask


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (80, 32)])
def test_maps_equal_a_whole_forward_and_backward_pass_for_each_class(
    clip: CLIP, network: CLIPES, height: int, width: int
) -> None:
    image, classes = view(height, width), torch.tensor([0, 2, 3])
    with torch.no_grad():
        maps = network.maps(image, classes)
    coarse, fine = slow_maps(clip, image, ["cat", "person", "bird"], blocks=2)
    torch.testing.assert_close(maps.coarse, coarse, atol=2e-4, rtol=0)
    assert maps.fine is not None
    torch.testing.assert_close(maps.fine, fine, atol=2e-4, rtol=0)
    assert coarse.flatten(1).std(dim=1).min() > 0.05  # there is something to compare
    assert (coarse[0] - coarse[1]).abs().max() > 0.05


def test_only_the_classes_of_the_image_compete(clip: CLIP, network: CLIPES) -> None:
    image = view(64, 64)
    alone = network.maps(image, torch.tensor([1])).coarse
    together = network.maps(image, torch.tensor([1, 2])).coarse[:1]
    expected, _ = slow_maps(clip, image, ["dog"], blocks=2)
    torch.testing.assert_close(alone, expected, atol=2e-4, rtol=0)
    assert (alone - together).abs().max() > 1e-3


def test_repeated_and_unsorted_classes_count_once_and_keep_their_places(network: CLIPES) -> None:
    image = view(48, 64)
    once = network.maps(image, torch.tensor([0, 3]))
    several = network.maps(image, torch.tensor([3, 0, 3]))
    assert once.fine is not None and several.fine is not None
    assert torch.equal(several.coarse, once.coarse[[1, 0, 1]])
    assert torch.equal(several.fine, once.fine[[1, 0, 1]])


def test_maps_lie_between_zero_and_one_and_reach_both(network: CLIPES) -> None:
    maps = network.maps(view(64, 48), torch.tensor([0, 1, 2, 3]))
    for kind in (maps.coarse, maps.fine):
        assert kind is not None and not kind.requires_grad
        assert kind.amin(dim=(1, 2)).tolist() == [0] * 4
        assert kind.amax(dim=(1, 2)).allclose(torch.ones(4), atol=1e-3)


def test_cross_maps_are_the_class_tokens_attention_of_the_asked_blocks(clip: CLIP) -> None:
    image = view(64, 64)
    clip.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = clip.model.vision_model(image[None], output_attentions=True).attentions
    for first, last in ((2, 3), (1, 2), (3, 3)):
        network = make_network(clip, cross_blocks=(first, last))
        cross = network.maps(image, torch.tensor([0, 1])).cross
        expected = [attentions[i][0, :, 0, 1:].reshape(2, 4, 4) for i in range(first - 1, last)]
        assert cross is not None and cross.shape == (1, 2, last - first + 1, 4, 4)
        torch.testing.assert_close(cross[0], torch.stack(expected, dim=1))
        assert (network.heads, network.blocks) == (2, tuple(range(first, last + 1)))


def test_cross_maps_can_be_left_out(clip: CLIP) -> None:
    network = make_network(clip, cross_blocks=None)
    assert network.kinds == ("coarse", "fine")
    assert (network.heads, network.blocks) == (0, ())
    assert network.maps(view(32, 32), torch.tensor([0])).cross is None


def test_a_map_without_evidence_is_zero_and_stays_finite(network: CLIPES) -> None:
    network._texts = network.texts[:1].expand(7, -1)  # all texts the same: nothing to explain
    maps = network.maps(view(48, 48), torch.tensor([0, 1]))
    assert maps.coarse.abs().max() < 1e-6
    assert maps.fine is not None and maps.fine.abs().max() == 0


def test_no_class_gives_no_map(network: CLIPES) -> None:
    maps = network.maps(view(32, 48), torch.zeros(0, dtype=torch.int64))
    assert maps.coarse.shape == (0, 2, 3)
    assert maps.fine is not None and maps.fine.shape == (0, 2, 3)


def test_a_probability_near_one_keeps_its_map(clip: CLIP, network: CLIPES) -> None:
    """Its gradient is p (1 - p) times that of the log-odds, which float32 would lose."""
    image = view(64, 64)
    with torch.no_grad():
        tokens = network._encode(image).tokens
        last = clip.layers[-1]
        attended, _ = clip.attend(last, last.layer_norm1(tokens))
        feature = network._mean_of_patches(clip.finish(last, tokens, attended))
    away = F.normalize(torch.randn(24, generator=torch.Generator().manual_seed(3)), dim=0)
    away = F.normalize(away - (away @ feature) * feature, dim=0)
    background = -0.87 * feature + (1 - 0.87**2) ** 0.5 * away
    texts = torch.cat([feature.expand(4, -1), background.expand(3, -1)])
    network._texts = texts
    first_norm = last.layer_norm1(tokens)[0].detach().requires_grad_()
    scores = slow_scores(clip, tokens[0], first_norm, texts[3:])
    assert 1e-7 < 1 - scores.double().softmax(dim=0)[0] < 1e-5
    (gradient,) = torch.autograd.grad(scores[0] - scores[1], first_norm)
    cam = torch.relu((first_norm.detach()[1:] * gradient[1:].mean(dim=0)).sum(dim=1))
    expected = (cam - cam.min()) / (cam.max() - cam.min())
    found = network.maps(image, torch.tensor([0])).coarse.flatten()
    torch.testing.assert_close(found / found.max(), expected, atol=1e-3, rtol=0)


def test_the_last_block_alone_is_differentiated(
    network: CLIPES, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("embed", "attend"):
        real = getattr(CLIP, name)
        monkeypatch.setattr(
            CLIP,
            name,
            lambda self, *a, _real=real, _name=name: calls.append(_name) or _real(self, *a),
        )
    network.maps(view(32, 32), torch.tensor([0, 1, 2, 3]))
    assert calls == ["embed", "attend", "attend", "attend"]
    assert all(p.grad is None for p in network.parameters())


def test_texts_are_computed_once_and_again_after_weights_change(
    network: CLIPES, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = CLIP.text_features
    monkeypatch.setattr(
        CLIP, "text_features", lambda self, p: calls.append(len(p)) or real(self, p)
    )
    network.maps(view(32, 32), torch.tensor([0]))
    network.class_logits(view(32, 32)[None])
    assert calls == [7]  # classes and background words
    network.load_state_dict(network.state_dict())
    network.class_logits(view(32, 32)[None])
    network.float()
    network.class_logits(view(32, 32)[None])
    assert calls == [7, 7, 7]


def test_the_logit_is_the_log_odds_of_a_class_among_the_surroundings(
    clip: CLIP, network: CLIPES
) -> None:
    images = torch.stack([view(64, 64, 1), view(64, 64, 2)])
    with torch.no_grad():
        (logits,) = network.class_logits(images)
        pooled = clip.model.vision_model(images).pooler_output
        features = F.normalize(clip.model.visual_projection(pooled), dim=1)
    assert logits.shape == (2, 4)
    for image in range(2):
        for number, name in enumerate(NAMES):
            scores = clip.scale * text_rows(clip, [name, *GROUND]) @ features[image]
            probability = scores.softmax(dim=0)[0]
            torch.testing.assert_close(logits[image, number].sigmoid(), probability)


def test_a_class_does_not_lose_a_logit_to_another_class(clip: CLIP, network: CLIPES) -> None:
    image = view(64, 64)[None]
    few = make_network(clip, class_names=NAMES[:2])
    with torch.no_grad():
        torch.testing.assert_close(
            few.class_logits(image)[0], network.class_logits(image)[0][:, :2]
        )


def test_padding_of_a_batch_does_not_change_a_logit(network: CLIPES) -> None:
    small, large = view(32, 48, 1), view(64, 64, 2)
    batch = torch.zeros(2, 3, 64, 64)
    batch[0, :, :32, :48], batch[1] = small, large
    with torch.no_grad():
        (together,) = network.class_logits(batch, [(32, 48), (64, 64)])
        alone = [network.class_logits(image[None])[0][0] for image in (small, large)]
        assert network.class_logits(batch[:0])[0].shape == (0, 4)
    torch.testing.assert_close(together, torch.stack(alone))


def test_a_view_with_half_patches_is_enlarged_to_whole_ones(network: CLIPES) -> None:
    image = view(40, 50)
    enlarged = F.interpolate(image[None], size=(48, 64), mode="bicubic", antialias=True)[0]
    found = network.maps(image, torch.tensor([1]))
    assert found.coarse.shape == (1, 3, 4)
    assert torch.equal(found.coarse, network.maps(enlarged, torch.tensor([1])).coarse)
    assert network.class_logits(image[None])[0].shape == (1, 4)


def test_training_is_refused(network: CLIPES) -> None:
    model = ImageClassifier(
        network=network, num_classes=4, pixel_mean=[0.0] * 3, pixel_std=[255.0] * 3
    ).train()
    item = {"image": torch.zeros(3, 32, 32), "image_labels": [1]}
    with pytest.raises(FrozenNetworkError, match="CLIPES has nothing to train: leave"):
        model([item])
    cfg = get_cfg()
    add_weaksam_config(cfg)
    with pytest.raises(ValueError, match="every parameter is frozen. Leave the training out"):
        build_optimizer(cfg, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["owl"], "names": "voc"}, r"\['owl'\] are not in the table 'voc'"),
        ({"cross_blocks": (2, 4)}, r"CROSS_BLOCKS is \(2, 4\), expected first <= last from 1 to 3"),
        ({"cross_blocks": (0, 1)}, r"CROSS_BLOCKS is \(0, 1\)"),
        ({"refinement": RefinementSettings()}, "AFFINITY_BLOCKS is 8, expected 1 to 3"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(
    clip: CLIP, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(clip, **changes)


def test_without_any_background_word_the_network_is_refused(clip: CLIP) -> None:
    everything = " ".join(background_words([]))
    with pytest.raises(ValueError, match=r"set MODEL.CLASSIFIER.CLIPES.BACKGROUND"):
        make_network(clip, class_names=[everything], background=())
