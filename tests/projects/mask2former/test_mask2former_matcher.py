"""The assignment of queries to objects against all permutations."""

import itertools

import pytest
import torch
from weaksam_d2.projects.mask2former import LayerPrediction, MaskMatcher, MaskTargets
from weaksam_d2.projects.mask2former.matcher import sample_masks


@pytest.fixture()
def matcher() -> MaskMatcher:
    return MaskMatcher(num_points=32)


def targets(count: int, *, size: int = 16, seed: int = 0) -> MaskTargets:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, size, size, generator=generator) > 0.5
    return MaskTargets(torch.randint(0, 3, (count,), generator=generator), masks)


def prediction(images: int, queries: int, seed: int = 0) -> LayerPrediction:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, queries, 4, generator=generator)
    return LayerPrediction(logits, torch.randn(images, queries, 4, 4, generator=generator))


@pytest.mark.parametrize(("queries", "objects"), [(5, 3), (3, 3), (3, 5), (4, 1)])
def test_the_assignment_is_the_cheapest_of_all(
    matcher: MaskMatcher, queries: int, objects: int
) -> None:
    one, target = prediction(1, queries, seed=queries), targets(objects, seed=objects)
    torch.manual_seed(3)
    cost = matcher.costs(one.logits[0], one.masks[0], target)
    torch.manual_seed(3)
    ((chosen, owners),) = matcher(one, [target])
    pairs = min(queries, objects)
    assert len(chosen) == len(owners) == pairs
    assert len(set(chosen.tolist())) == len(set(owners.tolist())) == pairs
    best = min(
        sum(cost[q, o].item() for q, o in zip(order, some, strict=True))
        for order in itertools.permutations(range(queries), pairs)
        for some in itertools.combinations(range(objects), pairs)
    )
    assert cost[chosen, owners].sum().item() == pytest.approx(best, abs=1e-4)


def test_images_are_matched_one_by_one(matcher: MaskMatcher) -> None:
    both = prediction(2, 4)
    pairs = matcher(both, [targets(0), targets(2)])
    assert [len(queries) for queries, _ in pairs] == [0, 2]


def test_a_perfect_query_wins_its_object(matcher: MaskMatcher) -> None:
    target = targets(3)
    masks = torch.cat([torch.zeros(2, 16, 16), 20 * (target.masks.float() - 0.5)])
    logits = torch.zeros(5, 4)
    logits[torch.arange(2, 5), target.classes] = 9.0
    ((chosen, owners),) = matcher(LayerPrediction(logits[None], masks[None]), [target])
    assert chosen.tolist() == [2, 3, 4] and owners.tolist() == [0, 1, 2]


def test_costs_do_not_look_at_pixels_that_are_not_valid(matcher: MaskMatcher) -> None:
    one, target = prediction(1, 4), targets(2)
    valid = torch.zeros(16, 16, dtype=torch.bool)
    valid[:, :8] = True
    changed = target.masks.clone()
    changed[:, :, 9:] = ~changed[:, :, 9:]  # one column is reached by interpolation

    def costs(masks: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return matcher.costs(one.logits[0], one.masks[0], MaskTargets(target.classes, masks, valid))

    assert torch.allclose(costs(target.masks), costs(changed), atol=1e-6)
    assert matcher.costs(one.logits[0], one.masks[0], targets(0)).shape == (4, 0)


def test_a_prediction_that_is_not_finite_is_left_to_the_trainer(matcher: MaskMatcher) -> None:
    one = prediction(1, 3)
    one.masks.fill_(float("nan"))
    ((chosen, _),) = matcher(one, [targets(2)])
    assert len(chosen) == 2


def test_masks_are_sampled_between_their_pixel_centers() -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 1] = 1  # upper right
    points = torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.5, 0.25]]])
    assert sample_masks(mask, points)[0].tolist() == pytest.approx([1, 0.25, 0.5])
