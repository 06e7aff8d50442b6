"""What the layers of transformers must go on doing, and the project without transformers."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from weaksam_d2.projects.dino.pyramid import make_pyramid

layers = pytest.importorskip("weaksam_d2.projects.dino.layers", exc_type=ImportError)

SETTINGS = layers.LayerSettings(width=32, ffn=16, heads=4, points=3, levels=2)
PYRAMID = make_pyramid([(4, 4), (2, 2)], [(32, 16), (32, 32)], (32, 32), torch.device("cpu"))


def test_names_of_the_parameters_are_those_that_checkpoints_are_mapped_to() -> None:
    attention = {"sampling_offsets", "attention_weights", "value_proj", "output_proj"}
    shared = {"mlp.fc1", "mlp.fc2", "self_attn_layer_norm", "final_layer_norm"}
    encoder = {name.rpartition(".")[0] for name in layers.make_encoder_layer(SETTINGS).state_dict()}
    assert encoder == shared | {f"self_attn.{part}" for part in attention}
    decoder = {name.rpartition(".")[0] for name in layers.make_decoder_layer(SETTINGS).state_dict()}
    assert decoder == shared | {f"encoder_attn.{part}" for part in attention} | {
        *(f"self_attn.{part}_proj" for part in "qkvo"),
        "encoder_attn_layer_norm",
    }


def test_an_encoder_layer_ignores_the_padding() -> None:
    torch.manual_seed(0)
    layer = layers.make_encoder_layer(SETTINGS).eval()
    tokens, positions = torch.randn(2, 20, 32), torch.randn(2, 20, 32)
    moved = tokens + 7 * ~PYRAMID.valid[..., None]
    with torch.no_grad():
        one, other = (layers.encode(layer, t, positions, PYRAMID) for t in (tokens, moved))
    assert one.shape == (2, 20, 32)
    torch.testing.assert_close(one[PYRAMID.valid], other[PYRAMID.valid], rtol=0, atol=0)
    assert not one[~PYRAMID.valid].equal(other[~PYRAMID.valid])


def test_a_decoder_layer_ignores_hidden_queries_and_the_padding() -> None:
    torch.manual_seed(0)
    layer = layers.make_decoder_layer(SETTINGS).eval()
    states, positions, memory = (torch.randn(2, n, 32) for n in (5, 5, 20))
    boxes = torch.rand(2, 5, 4)
    seen = torch.ones(5, 5, dtype=torch.bool)
    seen[2:, :2] = False  # the last three do not see the first two

    def run(states: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return layers.decode(layer, states, positions, boxes, memory, PYRAMID, seen)

    moved = states.clone()
    moved[:, :2] += 3
    hidden = memory + 7 * ~PYRAMID.valid[..., None]
    one, other = run(states, memory), run(moved, hidden)
    torch.testing.assert_close(one[:, 2:], other[:, 2:], rtol=0, atol=0)
    assert not torch.allclose(one[:, :2], other[:, :2])


def test_attention_starts_as_a_mean_over_a_ring_of_points() -> None:
    attention = layers.make_encoder_layer(SETTINGS).self_attn
    offsets = attention.sampling_offsets.bias.detach().view(4, 2, 3, 2)  # type: ignore[union-attr,operator]
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for steps in range(3):
        for level in range(2):
            torch.testing.assert_close(
                offsets[:, level, steps], directions * (steps + 1), rtol=0, atol=1e-6
            )
    for name in ("sampling_offsets", "attention_weights"):
        assert getattr(attention, name).weight.eq(0).all()


def imports_at_module_level(path: Path) -> set[str]:
    """Modules that are needed to import a file; ``if TYPE_CHECKING`` does not count."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found


def test_only_the_layers_need_transformers_and_nothing_imports_the_layers_at_once() -> None:
    files = sorted(Path(layers.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for path in files:
        if path.name != "layers.py":
            assert not imports_at_module_level(path) & {"transformers", ".layers"}, path.name


def test_without_transformers_the_model_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, make_network: Callable[..., Any]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, layers.__name__)
    with pytest.raises(ImportError, match="python -m pip install 'transformers>=5'"):
        make_network()


def test_layers_of_an_older_release_are_refused(
    monkeypatch: pytest.MonkeyPatch, make_network: Callable[..., Any]
) -> None:
    class OlderLayer(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, position_embeddings: torch.Tensor) -> None:
            raise NotImplementedError

    modeling = sys.modules[layers.DeformableDetrEncoderLayer.__module__]
    monkeypatch.setattr(modeling, "DeformableDetrEncoderLayer", OlderLayer)
    monkeypatch.delitem(sys.modules, layers.__name__)
    with pytest.raises(ImportError, match="python -m pip install 'transformers>=5'"):
        make_network()
