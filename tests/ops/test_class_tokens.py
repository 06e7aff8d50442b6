"""Class tokens: attention in chunks of rows against whole maps, fusion, pooling, positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weaksam_d2.ops import class_tokens
from weaksam_d2.ops.class_tokens import (
    class_attention,
    fuse_maps,
    interleaved_heads,
    mean_patch_attention,
    pool_attention,
    propagate,
    rank_weighted_mean,
    resize_positions,
    split_query_key,
)
from weaksam_d2.ops.maps import fuse_scales, normalize_map


def of_map(attention: Tensor) -> tuple[Tensor, Tensor]:
    """Query and key (1, 1, T, T) that give an attention map whose rows sum to one."""
    return torch.eye(len(attention))[None, None], attention.log().T[None, None]


# The map of wsss.md, Sec. 3.3: one class token, two patches.
WORKED = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7]])


@pytest.mark.parametrize(("z", "seed", "fine"), [([2, -1], [1, 0], [0.6, 0.2]),
                                                 ([2, 1], [1, 0.3], [0.69, 0.41])])  # fmt: skip
def test_the_worked_example_of_coarse_and_fine(z, seed, fine) -> None:
    query, key = of_map(WORKED)
    attention = class_attention(query, key, torch.tensor([0]), 1)[0, 0, 0]
    assert torch.allclose(attention, torch.tensor([0.5, 0.3]))
    values = attention * torch.tensor(z, dtype=torch.float32).relu()
    assert torch.allclose(values, torch.tensor(seed, dtype=torch.float32))
    spread = propagate(query, key, values[None, :, None], torch.ones(1, 1))[0, :, 0]
    assert torch.allclose(spread, torch.tensor(fine))
    assert normalize_map(spread[None]).flatten().tolist() == pytest.approx([1, 0], abs=1e-6)


def test_the_worked_example_of_a_cross_attention_map() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [1, 1, 1], [1, 1, 1]])
    logits[0, 1:] = logits[0, 1:].log()
    query, key = torch.eye(3)[None, None], logits.T[None, None]
    clue = class_attention(query, key, torch.tensor([0]), 1)[0, 0]
    assert torch.allclose(clue, torch.tensor([[0.6, 0.2]]))
    assert torch.allclose(normalize_map(clue), torch.tensor([[1.0, 0.0]]))
    mirrored = torch.tensor([[0.4, 0.0]]).flip(-1)
    both = (clue + mirrored).half()  # as stored: [.6, .6] up to rounding in float32
    assert not fuse_scales([both[None]], (1, 2)).any()  # constant: no peaks


def random_query_key(seed: int, tokens: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    qkv = torch.randn(2, tokens, 3 * 3 * 4, generator=torch.Generator().manual_seed(seed))
    query, key = split_query_key(qkv, heads=3, scale=0.5)
    q, k, _ = qkv.reshape(2, tokens, 3, 3, 4).unbind(2)
    whole = torch.einsum("nthd,nshd->nhts", q, k).mul(0.5).softmax(dim=-1)
    return query, key, whole


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), num_classes=st.integers(1, 10), most=st.integers(1, 300))
def test_chunks_of_rows_give_what_whole_maps_give(seed: int, num_classes: int, most: int) -> None:
    query, key, whole = random_query_key(seed)
    patches = whole[:, :, num_classes:, num_classes:]
    values, weights = torch.randn(2, 11 - num_classes, 2), torch.rand(2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_tokens, "_MAX_VALUES", most)
        spread = propagate(query, key, values, weights)
        received = mean_patch_attention(query, key, num_classes)
        largest = pool_attention(query, key, "max")
    slow = sum(weights[:, h, None, None] * (patches[:, h] @ values) for h in range(3))
    assert torch.allclose(spread, slow, atol=1e-5)
    assert torch.allclose(received, patches.mean(dim=2), atol=1e-6)
    assert torch.allclose(largest, whole.flatten(2).max(dim=2).values, atol=1e-6)
    chosen = torch.tensor([num_classes - 1, 0])
    rows = class_attention(query, key, chosen, num_classes)
    assert torch.allclose(rows, whole[:, :, chosen, num_classes:], atol=1e-6)


def test_the_mean_of_an_attention_map_says_nothing() -> None:
    query, key, whole = random_query_key(0)
    assert torch.allclose(pool_attention(query, key, "avg"), whole.mean(dim=(2, 3)), atol=1e-6)


def test_the_worked_example_of_the_fused_map() -> None:
    maps = torch.tensor([[[0.2, 0.8], [0.6, 0.4]], [[0.4, 0.6], [0.0, 1.0]]])
    fused = fuse_maps(torch.tensor([[0.731059, 0.268941]]), maps[None])[0]
    expected = torch.tensor([[0.126894, 0.373106], [0.219318, 0.280682]])
    assert torch.allclose(fused, expected, atol=1e-6)


def test_heads_take_every_sixth_channel() -> None:
    groups = interleaved_heads(torch.arange(12.0).expand(2, 12), 6)
    assert groups.shape == (2, 6, 2)
    assert groups[0].tolist() == [[h, h + 6] for h in range(6)]


def test_a_rank_weighted_mean_lies_between_mean_and_maximum() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0]])
    assert rank_weighted_mean(scores, 0.5).item() == pytest.approx((4 + 1 + 0.25) / 1.75)
    assert rank_weighted_mean(scores, 1.0).item() == pytest.approx(7 / 3)


def cubic(distance: float) -> float:
    """The bicubic kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@pytest.mark.parametrize(("interp", "offset"), [("size", 0.0), ("scale", 0.1)])
@pytest.mark.parametrize("cells", [3, 5, 9])
def test_positions_are_sampled_where_the_factor_says(interp, offset, cells: int) -> None:
    column = torch.tensor([0.0, 3.0, 1.0, 5.0, 2.0])
    positions = column.repeat_interleave(5)[None, :, None]  # rows differ, columns do not
    resized = resize_positions(positions, (cells, 7), interp=interp)
    assert resized.shape == (1, cells * 7, 1)
    factor = (cells + offset) / 5
    for row in range(cells):
        place = (row + 0.5) / factor - 0.5
        low = int(place // 1)
        taps = [(min(4, max(0, k)), cubic(place - k)) for k in range(low - 1, low + 3)]
        expected = sum(float(column[k]) * weight for k, weight in taps)
        assert torch.allclose(resized.view(cells, 7)[row], torch.tensor(expected), atol=1e-4)


def test_the_grid_of_the_embedding_is_left_alone_for_square_images_only() -> None:
    positions = torch.randn(1, 25, 3)
    for interp in ("size", "scale"):
        assert resize_positions(positions, (5, 5), interp=interp) is positions
    assert resize_positions(positions, (5, 5), interp="size", square_image=False) is positions
    shifted = resize_positions(positions, (5, 5), interp="scale", square_image=False)
    assert shifted.shape == positions.shape and not torch.allclose(shifted, positions)
    with pytest.raises(ValueError, match="24 patch positions are not a square"):
        resize_positions(positions[:, :24], (5, 5))
