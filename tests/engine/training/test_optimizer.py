"""Gradient clipping: of the whole model by one norm, or detectron2's, of each parameter."""

from typing import Any

import pytest
import torch
from torch import nn

from weaksam_d2.engine import cli
from weaksam_d2.engine.training.optimizer import build_optimizer


def config(clip_type: str, optimizer: str = "SGD") -> Any:
    cfg = cli.base_config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM = optimizer, 1.0, 0.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    clip = cfg.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE = True, clip_type, 0.1, 2.0
    return cfg


def two_layers(gradients: tuple[float, float]) -> nn.ModuleList:
    """Two weights of 0 whose gradients are given."""
    layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in gradients)
    for layer, gradient in zip(layers, gradients, strict=True):
        nn.init.zeros_(layer.weight)
        layer.weight.grad = torch.tensor([[gradient]])
    return layers


@pytest.mark.parametrize(
    ("clip_type", "gradients", "moved"),
    [
        ("full_model", (3.0, 4.0), (-0.06, -0.08)),  # a norm of 5 becomes 0.1
        ("full_model", (0.03, 0.04), (-0.03, -0.04)),  # below it nothing changes
        ("norm", (3.0, 4.0), (-0.1, -0.1)),
        ("value", (3.0, 0.04), (-0.1, -0.04)),
    ],
)
def test_a_step_is_as_long_as_the_clipped_gradient(
    clip_type: str, gradients: tuple[float, float], moved: tuple[float, float]
) -> None:
    layers = two_layers(gradients)
    build_optimizer(config(clip_type), layers).step()
    assert [layer.weight.item() for layer in layers] == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_every_optimizer_clips_and_keeps_its_closure_and_state(name: str) -> None:
    layers = two_layers((3.0, 4.0))
    optimizer = build_optimizer(config("full_model", name), layers)
    assert isinstance(optimizer, getattr(torch.optim, name))
    optimizer.step()
    norm = torch.stack([layer.weight.grad.norm() for layer in layers]).norm()
    assert norm.item() == pytest.approx(0.1, rel=1e-4)
    restored = build_optimizer(config("full_model", name), layers)
    restored.load_state_dict(optimizer.state_dict())
    assert optimizer.step(lambda: torch.tensor(7.0)) == 7.0


def test_an_unknown_way_to_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="whole_model"):
        build_optimizer(config("whole_model"), two_layers((1.0, 1.0)))
