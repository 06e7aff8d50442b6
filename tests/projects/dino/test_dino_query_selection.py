"""Anchors by hand, and which tokens become queries."""

import math

import torch
from torch import nn
from weaksam_d2.projects.dino.pyramid import Pyramid, make_pyramid
from weaksam_d2.projects.dino.query_selection import make_anchors, select_queries

CPU = torch.device("cpu")


def logit(value: float) -> float:
    return math.log(value / (1 - value))


class FirstChannels(nn.Module):
    """A head that gives the first channels of a token as they are."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.cut = slice(start, stop)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[..., self.cut]


def pick(memory: torch.Tensor, pyramid: Pyramid, count: int) -> torch.Tensor:
    """Scores of the chosen tokens, whose two first channels are two classes."""
    chosen = select_queries(
        memory, pyramid, embed=nn.Identity(), class_head=FirstChannels(0, 2),
        box_head=FirstChannels(2, 6), count=count,
    )  # fmt: skip
    assert chosen.boxes.shape == (len(memory), count, 4)
    return chosen.logits


def test_an_anchor_stands_on_its_cell_and_doubles_with_its_level() -> None:
    pyramid = make_pyramid([(2, 2), (1, 1)], [(16, 16)], (16, 16), CPU)
    anchors, usable = make_anchors(pyramid)
    assert usable.all()
    wanted = [logit(v) for v in (0.75, 0.25, 0.05, 0.05)]
    torch.testing.assert_close(anchors[0, 1], torch.tensor(wanted))
    torch.testing.assert_close(anchors[0, 4], torch.tensor([0.0, 0, logit(0.1), logit(0.1)]))


def test_anchors_at_the_border_and_in_the_padding_cannot_be_used() -> None:
    pyramid = make_pyramid([(1, 100)], [(8, 400)], (8, 800), CPU)  # 50 columns filled
    anchors, usable = make_anchors(pyramid)
    # Column 0 has its center at 0.5 / 50 = 0.01, column 49 at 0.99: neither lies between.
    assert usable[0].nonzero().flatten().tolist() == list(range(1, 49))
    assert anchors[0][~usable[0]].eq(torch.inf).all() and anchors[0][usable[0]].isfinite().all()
    huge = make_pyramid([(1, 1)] * 6, [(8, 8)], (8, 8), CPU)
    assert make_anchors(huge)[1][0].tolist() == [True] * 5 + [False]  # 0.05 * 2^5 > 0.99


def test_the_best_class_counts_and_boxes_start_at_anchors() -> None:
    pyramid = make_pyramid([(2, 2)], [(16, 16)], (16, 16), CPU)
    memory = torch.zeros(1, 4, 6)
    memory[0, :, :2] = torch.tensor([[1.0, 2.0], [9.0, -9.0], [3.0, 3.0], [0.0, 0.0]])
    memory[0, 1, 2:] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    chosen = select_queries(
        memory, pyramid, embed=nn.Identity(), class_head=FirstChannels(0, 2),
        box_head=FirstChannels(2, 6), count=2,
    )  # fmt: skip
    assert chosen.logits.tolist() == [[[9, -9], [3, 3]]]
    side = 1 / (1 + math.exp(-1 - logit(0.05)))
    torch.testing.assert_close(chosen.boxes[0, 0], torch.tensor([0.75, 0.25, side, 0.05]))
    torch.testing.assert_close(chosen.boxes[0, 1], torch.tensor([0.25, 0.75, 0.05, 0.05]))


def test_padding_comes_last_although_its_score_is_higher() -> None:
    pyramid = make_pyramid([(2, 2)], [(16, 8)], (16, 16), CPU)  # the left column is the image
    memory = torch.full((1, 4, 6), -1.0)
    assert pick(memory, pyramid, 2).eq(-1).all()
    assert pick(memory, pyramid, 3)[0, 2].eq(0).all()  # made from zeros


def test_missing_tokens_are_filled_up_with_boxes_of_one() -> None:
    pyramid = make_pyramid([(1, 1)], [(8, 8)], (8, 8), CPU)
    memory = torch.full((1, 1, 6), -1.0, requires_grad=True)
    chosen = select_queries(
        memory, pyramid, embed=nn.Identity(), class_head=FirstChannels(0, 2),
        box_head=FirstChannels(2, 6), count=3,
    )  # fmt: skip
    assert chosen.boxes[0, 1:].eq(1).all() and not chosen.boxes[0, 0].eq(1).any()
    chosen.boxes.sum().backward()
    assert memory.grad is not None and memory.grad.isfinite().all()
