"""MCTformer: maps of its three versions against whole attention maps, losses, building."""

from pathlib import Path
from typing import Any

import pytest
import torch

from weaksam_d2.cams import MCTformer
from weaksam_d2.cams.class_token_vit import BlockAttention
from weaksam_d2.engine.cli import base_config

CHANNELS = 4
VIT_OF: dict[str, dict[str, Any]] = {
    "V2": {},
    "V1": {"head": False},
    "Plus": {"separate_positions": True},
}


@pytest.fixture
def make(tiny_vit: Any) -> Any:
    def make_network(version: Any, layers: int = 2, **options: Any) -> MCTformer:
        vit = tiny_vit(CHANNELS, **VIT_OF[version])
        options = {"channels": range(CHANNELS), "cross_blocks": (1, 2), **options}
        return MCTformer(vit=vit, version=version, layers=layers, **options).eval()

    return make_network


@pytest.mark.parametrize("version", ["V2", "V1", "Plus"])
@pytest.mark.parametrize("layers", [1, 3])
def test_maps_are_those_of_whole_attention_maps(
    make: Any, slow_attention: Any, version: str, layers: int
) -> None:
    network, image = make(version, layers), torch.randn(3, 48, 80)
    classes = torch.tensor([2, 0])
    maps = network.maps(image, classes)
    slow = slow_attention(network.vit, image)
    heads_averaged = [whole.mean(dim=0) for whole in slow.maps]
    attention = sum(a[:CHANNELS, CHANNELS:] for a in heads_averaged[-layers:])
    if version == "V1":
        coarse = seed = attention
    else:
        with torch.no_grad():
            scores = network.vit.patch_scores(slow.tokens[None], (3, 5))[0]
        coarse = scores.relu().flatten(1)
        seed = attention * coarse
    if version == "Plus":
        seed = (attention / layers * coarse) ** 0.5
    affinity = sum(a[CHANNELS:, CHANNELS:] for a in heads_averaged)
    fine = (affinity @ seed.T).T
    assert torch.allclose(maps.coarse, coarse[classes].view(2, 3, 5), atol=1e-4)
    assert torch.allclose(maps.fine, fine[classes].view(2, 3, 5), atol=1e-4)
    assert maps.cross.shape == (2, 2, 2, 3, 5)
    expected = slow.maps[1][1][classes, CHANNELS:].view(2, 3, 5)
    assert torch.allclose(maps.cross[:, 1, 1], expected, atol=1e-5)


def test_the_worked_example(make: Any) -> None:
    attention = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])
    rows, score = attention[:1, 1:].view(1, 1, 1, 2), torch.tensor([[2.0, 0.0]])
    seen = [BlockAttention(*[torch.empty(0)] * 4)]
    clues = make("V2", 1).clues(seen, rows, score)
    assert torch.allclose(clues.seed, torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(attention[1:, 1:] @ clues.seed[0], torch.tensor([0.6, 0.2]))
    assert clues.weights.tolist() == [[1.0]]
    assert torch.allclose(make("V1", 1).clues(seen, rows, None).seed, rows[0, 0])
    plus = make("Plus", 1).clues(seen, rows, torch.tensor([[8.0, 0.0]]))
    assert torch.allclose(plus.seed, torch.tensor([[2.0, 0.0]]))


@pytest.mark.parametrize("version", ["V2", "V1", "Plus"])
def test_loss_terms_and_their_gradients(make: Any, version: str) -> None:
    network, images = make(version).train(), torch.randn(2, 3, 32, 48)
    terms = network.class_logits(images)
    tokens = network.vit.tokens(images)
    assert torch.allclose(terms[0], tokens[:, :CHANNELS].mean(dim=2), atol=1e-5)
    assert len(terms) == (1 if version == "V1" else 2)
    if version != "V1":
        scores = network.vit.patch_scores(tokens, (2, 3)).flatten(2)
        expected = scores.mean(dim=2)
        if version == "Plus":
            powers = torch.tensor([0.996**k for k in range(6)])
            ranked = scores.sort(dim=2, descending=True).values
            expected = (ranked * powers).sum(dim=2) / powers.sum()
        assert torch.allclose(terms[1], expected, atol=1e-5)
    sum(term.square().sum() for term in terms).backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None and p.requires_grad]
    assert missing == []
    assert len(network.eval().class_logits(images)) == 1


def config(version: str, **keys: Any) -> Any:
    root = Path(__file__).resolve().parents[2]
    cfg = base_config()
    cfg.merge_from_file(str(root / "configs/quick_schedules/weaktr_tiny.yaml"))
    cfg.MODEL.CLASSIFIER.NETWORK = "MCTformer"
    cfg.MODEL.CLASSIFIER.MCTFORMER.VERSION = version
    cfg.MODEL.CLASSIFIER.MCTFORMER.update(keys)
    return cfg


@pytest.mark.parametrize(("version", "patches"), [("V2", 100), ("V1", 100), ("Plus", 784)])
def test_a_config_builds_each_version(version: str, patches: int) -> None:
    network = MCTformer(config(version)).eval()
    assert network.checkpoint_kind == f"MCTformer {version}"
    assert network.layers == 3 and network.blocks == (3, 4, 5, 6)
    names = dict(network.vit.named_parameters())
    table = names["pos_embed_pat" if version == "Plus" else "pos_embed"]
    classes = 0 if version == "Plus" else 80
    assert table.shape == (1, classes + patches, 64)
    assert ("head.weight" in names) == (version != "V1")
    maps = network.maps(torch.randn(3, 32, 48), torch.tensor([7]))
    assert maps.fine is not None and maps.fine.shape == (1, 2, 3) and bool((maps.fine >= 0).all())


def test_settings_that_cannot_be_are_named(make: Any, tiny_vit: Any) -> None:
    with pytest.raises(ValueError, match="VERSION is 'V3'"):
        MCTformer(config("V3"))
    with pytest.raises(ValueError, match="LAYERS is 7, expected 1 to 6"):
        MCTformer(config("V2", LAYERS=7))
    with pytest.raises(ValueError, match="not of MCTformer's version V1"):
        MCTformer(vit=tiny_vit(), channels=range(4), version="V1", layers=1)
