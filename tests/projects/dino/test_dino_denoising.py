"""Denoising queries: how much boxes move, which class they claim, who may see whom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.dino.denoising import Denoising, make_denoising, noised_boxes
from weaksam_d2.projects.dino.outputs import ImageTargets


def objects(count: int, classes: int = 5, seed: int = 0) -> ImageTargets:
    random = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=random) * 0.4 + 0.3
    sides = torch.rand(count, 2, generator=random) * 0.3 + 0.1
    return ImageTargets(
        torch.randint(classes, (count,), generator=random), torch.cat([centers, sides], dim=1)
    )


def made(*counts: int, number: int = 100, label: float = 0.5, box: float = 1.0) -> Denoising:
    found = make_denoising(
        [objects(count, seed=i) for i, count in enumerate(counts)],
        num_classes=5,
        number=number,
        label_noise=label,
        box_noise=box,
        generator=torch.Generator().manual_seed(7),
    )
    assert found is not None
    return found


def test_a_box_moves_by_shares_of_its_half_sides() -> None:
    """Hand example of extras.md, Sec. 1.2."""
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    signs = torch.tensor([[True, False, True, False]])
    near = noised_boxes(box, torch.full((1, 4), 0.5), signs)
    far = noised_boxes(box, torch.full((1, 4), 1.5), signs)
    torch.testing.assert_close(near, torch.tensor([[0.55, 0.4, 0.2, 0.4]]))
    torch.testing.assert_close(far, torch.tensor([[0.65, 0.2, 0.2, 0.4]]))


def test_corners_that_pass_each_other_leave_a_side_of_0() -> None:
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    inwards = torch.tensor([[True, True, False, False]])
    moved = noised_boxes(box, torch.full((1, 4), 1.5), inwards)
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))


@pytest.mark.parametrize(("most", "groups"), [(3, 33), (1, 100), (100, 1), (130, 1)])
def test_about_as_many_pairs_as_asked_for(most: int, groups: int) -> None:
    found = made(most, 1)
    assert (found.groups, found.group_size) == (groups, most)
    assert found.classes.shape == (2, 2 * groups * most)
    if most == 3:
        assert found.classes.shape[1] == 198


def test_without_an_object_or_a_number_there_are_none() -> None:
    options = {"num_classes": 5, "label_noise": 0.5, "box_noise": 1.0}
    assert make_denoising([objects(0), objects(0)], number=100, **options) is None
    assert make_denoising([], number=100, **options) is None
    assert make_denoising([objects(2)], number=0, **options) is None


def test_positive_slots_come_first_and_short_images_leave_slots_empty() -> None:
    found = made(3, 1, 0, number=6)
    full, short = [0, 1, 2, -1, -1, -1], [0, -2, -2, -1, -2, -2]
    assert found.targets.tolist() == [full * 2, short * 2, [-2] * 12]
    assert (found.classes[2] == 0).all()
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()


def test_positives_stay_near_negatives_go_far() -> None:
    found, true = made(2, number=2000, label=0.0), objects(2)
    corners = torch.tensor([[1, 0, -0.5, 0], [0, 1, 0, -0.5], [1, 0, 0.5, 0], [0, 1, 0, 0.5]])
    half = true.boxes[:, [2, 3, 2, 3]] / 2
    grouped = found.boxes.view(1000, 2, 2, 4)
    moved = ((grouped @ corners.T) - true.boxes @ corners.T).abs() / half
    inside = ((grouped @ corners.T > 0) & (grouped @ corners.T < 1)).all(dim=-1, keepdim=True)
    solid = inside & (grouped[..., 2:] > 0).all(dim=-1, keepdim=True)
    near, far = (moved[:, i][solid[:, i].expand(-1, -1, 4)] for i in (0, 1))
    assert near.max() < 1 + 1e-4 and near.min() < 0.01 and abs(near.mean() - 0.5) < 0.02
    assert far.min() > 1 - 1e-4 and 1.98 < far.max() < 2 + 1e-4
    assert (found.classes.view(1000, 2, 2) == true.classes).all()  # no noise was asked for


def test_a_quarter_of_the_classes_is_redrawn_from_all_of_them() -> None:
    found, true = made(2, number=20000), objects(2)
    changed = found.classes.view(10000, 2, 2) != true.classes
    # A fifth of those drawn from five classes are the old one.
    assert changed.float().mean().item() == pytest.approx(0.25 * 0.8, abs=0.01)
    assert set(found.classes.flatten().tolist()) == set(range(5))


def test_noise_can_be_switched_off_and_is_a_function_of_the_generator() -> None:
    true = objects(2)
    quiet = made(2, label=0.0, box=0.0)
    torch.testing.assert_close(quiet.boxes.view(-1, 2, 4), true.boxes.expand(100, 2, 4))
    torch.testing.assert_close(made(2, 1).boxes, made(2, 1).boxes, rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 5))
def test_who_may_attend_to_whom(size: int, number: int, queries: int) -> None:
    found = made(size, number=number)
    mask = found.attention_mask(queries)
    noised = found.groups * 2 * size
    assert mask.shape == (noised + queries, noised + queries)
    for row in range(noised + queries):
        for column in range(noised + queries):
            own_group = (
                row < noised and column < noised and row // (2 * size) == column // (2 * size)
            )
            assert mask[row, column] == (column >= noised or own_group)
