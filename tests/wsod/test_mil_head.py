"""Two-stream scores and the image-level loss of a batch."""

from math import log

import pytest
import torch

from weaksam_d2.wsod import MILOutputLayers


def make_layers(**options: object) -> MILOutputLayers:
    """Layers that pass features 0-1 on as class logits and 2-3 as detection logits."""
    layers = MILOutputLayers(4, num_classes=2, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        layers.classification.weight.copy_(torch.eye(4)[:2])
        layers.detection.weight.copy_(torch.eye(4)[2:])
    return layers


FEATURES = torch.tensor([[0, log(3), log(2), 0], [log(2), 0, 0, 0], [0, 0, 0, log(2)]])


def test_the_example_of_the_specification() -> None:
    layers = make_layers()
    (scores,) = layers(FEATURES, [3])
    expected = torch.tensor([[0.125, 0.1875], [1 / 6, 1 / 12], [0.125, 0.25]])
    torch.testing.assert_close(scores, expected)
    assert layers.loss([scores], [torch.tensor([0])]).item() == pytest.approx(1.611176, abs=1e-5)
    mean = make_layers(loss_reduce="mean")
    assert mean.loss([scores], [torch.tensor([0])]).item() == pytest.approx(0.805588, abs=1e-5)


def test_each_image_has_its_own_softmax_over_proposals() -> None:
    layers = make_layers()
    pair = layers(FEATURES.repeat(2, 1), [3, 3])
    (alone,) = layers(FEATURES, [3])
    torch.testing.assert_close(pair[1], alone)
    assert pair[0].sum() > 0.9


def test_the_loss_is_the_mean_over_images() -> None:
    layers = make_layers()
    scores = layers(FEATURES.repeat(2, 1), [3, 3])
    labels = [torch.tensor([0]), torch.tensor([], dtype=torch.int64)]
    one = [layers.loss(scores[:1], [label]).item() for label in labels]
    assert layers.loss(scores, labels).item() == pytest.approx(sum(one) / 2)
    assert one[0] != pytest.approx(one[1])


def test_scores_are_float32_under_autocast() -> None:
    layers = make_layers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = layers(FEATURES.bfloat16(), [3])
        loss = layers.loss(scores, [torch.tensor([0])])
    assert scores[0].dtype == loss.dtype == torch.float32


def test_a_clamp_that_float32_rounds_away_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CLAMP_EPS is 1e-08.*1e-6"):
        make_layers(eps=1e-8)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="'max'"):
        make_layers(loss_reduce="max")
