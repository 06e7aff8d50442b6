"""WeakTr: maps and losses against whole attention maps, gradients, classes, building."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.artifacts import CamStore, CamStoreWriter
from weaksam_d2.cams import ImageClassifier, WeakTr, generate_cams
from weaksam_d2.cams.class_token_network import channel_table
from weaksam_d2.cams.class_token_vit import BlockAttention
from weaksam_d2.cams.weaktr import AttentionFusion
from weaksam_d2.engine.cli import base_config

CHANNELS = 4


@pytest.fixture
def make(tiny_vit: Any) -> Any:
    def make_network(cross_blocks: Any = (2, 3), vit: Any = None, **options: Any) -> WeakTr:
        vit = vit or tiny_vit(CHANNELS)
        kind = {"blocks": 3, "heads": 2, "head_width": 12, "reduction": 2, **options}
        fusion = AttentionFusion(**kind)
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        channels = range(vit.num_channels)
        return WeakTr(vit=vit, channels=channels, fusion=fusion, cross_blocks=cross_blocks).eval()

    return make_network


def slow_gates(fusion: AttentionFusion, slow: Any) -> Tensor:
    """(6,) gates of maps numbered head * 3 + block, by wsss.md, Sec. 3.3, steps 1 to 4."""
    pooled = []
    for head in range(2):
        for block in range(3):
            if fusion.fusion == "v3":
                kept = slow.branches if fusion.feature == "attn_out" else slow.outputs
                group = kept[block][:, head::2]
                value = group.max(dim=0).values if fusion.pool == "max" else group.mean(dim=0)
                first, second = fusion.attn_feat_ffn
                pooled.append(second(first(value))[0])
            else:
                whole = slow.maps[block][head]
                pooled.append(whole.max() if fusion.pool == "max" else whole.mean())
    layers = fusion.fc if fusion.fusion == "v1" else fusion.attn_head_ffn
    hidden = F.relu(layers[0].weight @ torch.stack(pooled))
    return torch.sigmoid(layers[2].weight @ hidden)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"pool": "avg"},
    {"feature": "block_out"},
    {"fusion": "v2"},
    {"fusion": "v1"},
    {"fusion": "v1", "pool": "avg"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_maps_are_those_of_the_whole_fused_attention(
    make: Any, slow_attention: Any, options: dict[str, Any]
) -> None:
    network, image = make(**options), torch.randn(3, 48, 80)
    classes = torch.tensor([3, 1])
    maps = network.maps(image, classes)
    slow = slow_attention(network.vit, image)
    with torch.no_grad():
        gates = slow_gates(network.adaptive_attention_fusion, slow)
        stacked = torch.stack([slow.maps[b][h] for h in range(2) for b in range(3)])
        fused = (gates[:, None, None] * stacked).mean(dim=0)
        scores = network.vit.patch_scores(slow.tokens[None], (3, 5))[0]
    relu = scores.relu().flatten(1)
    coarse = fused[:CHANNELS, CHANNELS:] * relu
    fine = (fused[CHANNELS:, CHANNELS:] @ coarse.T).T
    assert gates.std() > 1e-4 or options.get("pool") == "avg"
    assert torch.allclose(maps.coarse, relu[classes].view(2, 3, 5), atol=1e-4)
    assert torch.allclose(maps.fine, fine[classes].view(2, 3, 5), atol=1e-5)
    for row, c in enumerate(classes):
        for head in range(2):
            for place, block in enumerate((1, 2)):  # blocks 2 and 3
                expected = slow.maps[block][head][c, CHANNELS:].view(3, 5)
                assert torch.allclose(maps.cross[row, head, place], expected, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS[:4])
def test_loss_terms_are_means_of_tokens_scores_and_fine_maps(
    make: Any, slow_attention: Any, options: dict[str, Any]
) -> None:
    network, images = make(**options).train(), torch.randn(2, 3, 48, 32)
    tokens, patches, fine = network.class_logits(images)
    for i, image in enumerate(images):
        slow = slow_attention(network.vit, image)
        scores = network.vit.patch_scores(slow.tokens[None], (3, 2))[0]
        assert torch.allclose(tokens[i], slow.tokens[:CHANNELS].mean(dim=1), atol=1e-4)
        assert torch.allclose(patches[i], scores.mean(dim=(1, 2)), atol=1e-4)
        maps = network.maps(image, torch.arange(CHANNELS))
        assert torch.allclose(fine[i], maps.fine.mean(dim=(1, 2)), atol=1e-5)


def test_the_worked_example_of_the_gates() -> None:
    fusion = AttentionFusion(blocks=2, heads=1, head_width=4, fusion="v1", reduction=2)
    with torch.no_grad():
        fusion.fc[0].weight.copy_(torch.tensor([[2.0, 1.0]]))
        fusion.fc[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        gates = fusion([torch.tensor([[1.0]]), torch.tensor([[-1.0]])])
    assert gates.flatten().tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)


def test_the_worked_example_of_the_seed(make: Any) -> None:
    network = make()
    network.adaptive_attention_fusion.forward = lambda described: torch.ones(1, 1, 1)
    network.adaptive_attention_fusion.describe = lambda seen: None
    rows = torch.tensor([0.5, 0.3]).view(1, 1, 1, 2)
    seen = [BlockAttention(*[torch.empty(0)] * 4)]
    for z, seed in (([2.0, 0.0], [1.0, 0.0]), ([2.0, 1.0], [1.0, 0.3])):
        clues = network.clues(seen, rows, torch.tensor([z]))
        assert torch.allclose(clues.seed, torch.tensor([seed]))
        assert clues.coarse.tolist() == [z] and clues.weights.tolist() == [[1.0]]


def test_the_fine_term_trains_the_fusion_alone(make: Any) -> None:
    network = make().train()
    network.class_logits(torch.randn(1, 3, 32, 32))[2].sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith("adaptive_attention_fusion") for name in trained)


@pytest.mark.parametrize("options", OPTIONS[:4])
def test_every_parameter_that_trains_gets_a_gradient(make: Any, options: dict[str, Any]) -> None:
    network = make(**options).train()  # one without would stop data-parallel training
    sum(term.sum() for term in network.class_logits(torch.randn(2, 3, 32, 32))).backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None and p.requires_grad]
    assert missing == []


def test_mixed_precision_gives_nearly_the_same_losses_and_gradients(make: Any) -> None:
    network, images = make().train(), torch.randn(2, 3, 32, 48)
    plain = network.class_logits(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = network.class_logits(images)
    for exact, rounded in zip(plain, mixed, strict=True):
        assert torch.allclose(exact, rounded.float(), atol=0.05 * exact.abs().max().item())
    assert mixed[2].dtype == torch.float32  # products of attention and attention
    sum(term.float().sum() for term in mixed).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_images_of_different_sizes_pass_one_by_one(make: Any) -> None:
    network = make().eval()
    small, large = torch.randn(3, 32, 48), torch.randn(3, 64, 50)
    batch = torch.zeros(2, 3, 64, 50)
    batch[0, :, :32, :48], batch[1] = small, large
    (together,) = network.class_logits(batch, [(32, 48), (64, 50)])
    alone = [network.class_logits(image[None])[0][0] for image in (small, large)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)


def test_coco_category_ids_become_contiguous_classes(tiny_vit: Any, make: Any) -> None:
    channels, count = channel_table("coco_category_ids", 80)
    assert (len(channels), count) == (80, 90)
    assert channels[79] == 89  # toothbrush
    assert channels[0] == 0 and channels[10] == 10 and channels[11] == 12
    assert 11 not in channels  # street sign: a channel without a class
    vit = tiny_vit(90)
    network = make(vit=vit)
    plain = WeakTr(vit=vit, channels=range(90), fusion=network.adaptive_attention_fusion).eval()
    network = WeakTr(vit=vit, channels=channels, fusion=network.adaptive_attention_fusion).eval()
    image = torch.randn(3, 32, 32)
    with torch.no_grad():
        every = plain.class_logits(image[None])[0][0]
        assert torch.equal(network.class_logits(image[None])[0][0], every[channels])
    maps = network.maps(image, torch.tensor([11, 79]))
    expected = plain.maps(image, torch.tensor([12, 89]))
    assert torch.equal(maps.fine, expected.fine) and maps.cross is None
    with pytest.raises(ValueError, match="needs COCO's 80 classes, .*NUM_CLASSES is 20"):
        channel_table("coco_category_ids", 20)
    with pytest.raises(ValueError, match="CHANNELS is 'coco'"):
        channel_table("coco", 80)


def classifier(network: WeakTr) -> ImageClassifier:
    return ImageClassifier(
        network=network, num_classes=CHANNELS, pixel_mean=[128.0] * 3, pixel_std=[64.0] * 3
    )


def test_training_on_tags_learns_them(make: Any) -> None:
    torch.manual_seed(0)
    model = classifier(make()).train()
    items = []
    for label in range(3):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[label, 8:24, 8:24] = 255
        items.append({"image": image, "image_labels": torch.tensor([label])})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        loss = model(items)["loss_multilabel"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def store_of(path: Path, network: WeakTr, images: dict[str, np.ndarray], labels: list[int]) -> Any:
    records = [
        {"file_name": name, "image_id": name, "image_labels": labels,
         "height": image.shape[0], "width": image.shape[1]}
        for name, image in images.items()
    ]  # fmt: skip
    with CamStoreWriter(
        path, class_names="abcd", network="WeakTr", scales=(1.0, 1.5),
        heads=network.heads, blocks=network.blocks,
    ) as writer:  # fmt: skip
        generate_cams(
            records,
            classifier(network),
            writer=writer,
            scales=(1.0, 1.5),
            read_image=lambda name, _: images[name],
        )
    return CamStore.open(path)


def test_maps_of_a_mirror_image_are_mirrored_at_all_scales(make: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    images = {"a": image, "b": image[:, ::-1].copy()}
    store = store_of(tmp_path / "cams", make(), images, [0, 2])
    assert store.index["blocks"] == [2, 3] and store.index["heads"] == 2
    for kind in ("coarse", "fine", "cross"):
        for left, right in zip(getattr(store["a"], kind), getattr(store["b"], kind), strict=True):
            scale = left.max()
            np.testing.assert_allclose(left / scale, right[..., ::-1] / scale, atol=2e-3)
            assert left.max() > left.min()
    assert [m.shape for m in store["a"].cross] == [(2, 2, 2, 2, 4), (2, 2, 2, 3, 6)]


def test_an_image_without_tags_is_not_looked_at(make: Any, tmp_path: Path) -> None:
    network = make(cross_blocks=None)
    network.maps = None  # calling it would fail
    image = np.zeros((32, 48, 3), np.uint8)
    maps = store_of(tmp_path / "cams", network, {"a": image}, [])["a"]
    assert len(maps.classes) == 0


def tiny_config() -> Any:
    cfg = base_config()
    cfg.merge_from_file(
        str(Path(__file__).resolve().parents[2] / "configs/quick_schedules/weaktr_tiny.yaml")
    )
    return cfg


def test_a_config_builds_what_its_keys_say() -> None:
    cfg = tiny_config()
    cfg.MODEL.CLASSIFIER.WEAKTR.FUSION = "v1"
    cfg.MODEL.CLASSIFIER.WEAKTR.REDUCTION = 4
    network = WeakTr(cfg)
    assert network.blocks == (3, 4, 5, 6) and network.heads == 2
    assert network.adaptive_attention_fusion.fc[0].weight.shape == (3, 12)
    assert network.checkpoint_kind == "WeakTr v1" and not network.pretrained
    cfg.WEAKSAM.CAMS.SAVE_CROSS = False
    network = WeakTr(cfg).eval()
    assert network.kinds == ("coarse", "fine") and (network.heads, network.blocks) == (0, ())
    maps = network.maps(torch.randn(3, 32, 48), torch.tensor([5]))
    assert maps.cross is None and maps.fine is not None and maps.fine.shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("WEAKSAM.CAMS.CROSS_BLOCKS", (5, 12), r"\(5, 12\), expected .* 1 to 6"),
        ("MODEL.CLASSIFIER.WEAKTR.FUSION", "v4", "FUSION is 'v4'"),
        ("MODEL.CLASSIFIER.WEAKTR.POOL", "sum", "POOL is 'sum'"),
        ("MODEL.CLASSIFIER.WEAKTR.FEATURE", "x", "FEATURE is 'x'"),
        ("MODEL.CLASSIFIER.WEAKTR.REDUCTION", 13, "REDUCTION is 13, expected 1 to 12"),
    ],
)
def test_settings_that_cannot_be_are_named(key: str, value: Any, message: str) -> None:
    cfg = tiny_config()
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        WeakTr(cfg)
