"""Embeddings by hand, and the inverse sigmoid with its limit."""

import math

import pytest
import torch
from weaksam_d2.projects.dino.positions import (
    box_embedding,
    inverse_sigmoid,
    pixel_embedding,
    sine_embedding,
)
from weaksam_d2.projects.dino.pyramid import make_pyramid

CPU = torch.device("cpu")


def test_sine_and_cosine_alternate_at_falling_frequencies() -> None:
    embedded = sine_embedding(torch.tensor([2.0]), 4, 100.0)
    wanted = [math.sin(2), math.cos(2), math.sin(0.2), math.cos(0.2)]  # 100^(2/4) = 10
    torch.testing.assert_close(embedded, torch.tensor([wanted]))
    with pytest.raises(ValueError, match="pairs of entries, got a count of 3"):
        sine_embedding(torch.zeros(1), 3, 10.0)


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_a_pixel_says_y_then_x_as_a_share_of_the_true_image(offset: float) -> None:
    pyramid = make_pyramid([(4, 4)], [(32, 16)], (32, 32), CPU)  # 4 rows and 2 columns filled
    embedded = pixel_embedding(pyramid, 8, temperature=20.0, offset=offset).view(1, 4, 4, 8)
    row, column = 2, 1
    y, x = ((k + 1 + offset) / n * 2 * math.pi for k, n in ((row, 4), (column, 2)))
    slow = math.sqrt(20)
    wanted = [f(v / t) for v in (y, x) for t in (1, slow) for f in (math.sin, math.cos)]
    torch.testing.assert_close(embedded[0, row, column], torch.tensor(wanted), rtol=0, atol=1e-5)


def test_a_box_says_y_x_w_h() -> None:
    box = torch.tensor([0.1, 0.2, 0.3, 0.4])  # x, y, w, h
    embedded = box_embedding(box, 4)
    wanted = [f(2 * math.pi * v) for v in (0.2, 0.1, 0.3, 0.4) for f in (math.sin, math.cos)]
    torch.testing.assert_close(embedded, torch.tensor(wanted), rtol=0, atol=1e-6)
    assert box_embedding(box.expand(2, 3, 4), 256).shape == (2, 3, 512)


def test_the_inverse_sigmoid_stops_a_thousandth_from_the_ends() -> None:
    logits = inverse_sigmoid(torch.tensor([0.0, 1e-4, 0.5, 0.8, 1.0, 1.5]))
    end = math.log(1000)
    wanted = [-end, -end + 1e-4, 0.0, math.log(4), end, end]
    torch.testing.assert_close(logits, torch.tensor(wanted), rtol=0, atol=2e-4)
    inside = torch.linspace(0.001, 0.999, 50)
    torch.testing.assert_close(inverse_sigmoid(inside).sigmoid(), inside)
