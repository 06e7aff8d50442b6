"""Endless orders of training images: by tags, of two kinds, and such that a run can resume."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from detectron2.data.samplers import TrainingSampler

from weaksam_d2.data import samplers
from weaksam_d2.data.samplers import (
    ComposedTrainingSampler,
    ResumableSampler,
    SeededDataset,
    TagBalancedTrainingSampler,
    TagRepeatFactorTrainingSampler,
    build_train_sampler,
)


def first(sampler: Any, count: int) -> list[Any]:
    return list(islice(iter(sampler), count))


def test_images_with_rare_tags_are_repeated() -> None:
    """Class 1 is in 1/4 of the images: sqrt(1 / (1/4)) = 2 times as often."""
    labels = [[0], [0], [0], [0, 1]]
    order = first(TagRepeatFactorTrainingSampler(labels, repeat_thresh=1.0, seed=0), 50)
    assert Counter(order) == {0: 10, 1: 10, 2: 10, 3: 20}


def test_an_image_without_tags_is_not_repeated() -> None:
    sampler = TagRepeatFactorTrainingSampler([[0], []], repeat_thresh=0.9, sqrt=False, seed=0)
    assert sampler._int_part.tolist() == [1.0, 1.0]
    assert sampler._frac_part.tolist() == pytest.approx([0.8, 0.0], abs=1e-6)


def test_every_class_comes_equally_often_and_untagged_images_as_often() -> None:
    labels: list[list[int]] = [[0], [0], [0], [0], [1], []]
    order = first(TagBalancedTrainingSampler(labels, seed=0), 24)
    for start in range(0, 24, 3):
        groups = sorted(min(row, 4) if row < 5 else 5 for row in order[start : start + 3])
        assert [g if g >= 4 else 0 for g in groups] == [0, 4, 5]
    frequent = [row for row in order if row < 4]
    assert sorted(frequent[:4]) == sorted(frequent[4:]) == [0, 1, 2, 3]
    assert frequent[:4] != frequent[4:]


def test_an_image_of_two_classes_stands_for_both() -> None:
    order = first(TagBalancedTrainingSampler([[0, 1], [1]], seed=1), 40)
    assert Counter(order) == {0: 30, 1: 10}


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(rank: int, world: int) -> None:
        monkeypatch.setattr(samplers.comm, "get_rank", lambda: rank)
        monkeypatch.setattr(samplers.comm, "get_world_size", lambda: world)

    return choose


def composed(batch: int = 4, boxed: int = 1) -> ComposedTrainingSampler:
    return ComposedTrainingSampler(
        TrainingSampler(7, seed=0),
        TrainingSampler(3, seed=1),
        first_boxed=7,
        batch_size=batch,
        num_boxed=boxed,
    )


def test_batches_of_two_kinds_use_each_pool_up_before_it_is_shuffled_again(ranks: Any) -> None:
    order = first(composed(), 4 * 21)
    batches = [order[k : k + 4] for k in range(0, len(order), 4)]
    assert all(max(batch[:3]) < 7 <= batch[3] < 10 for batch in batches)
    tagged = [row for row in order if row < 7]
    boxed = [row for row in order if row >= 7]
    assert all(set(tagged[k : k + 7]) == set(range(7)) for k in range(0, 63, 7))
    assert all(set(boxed[k : k + 3]) == {7, 8, 9} for k in range(0, 21, 3))
    halves = []
    for rank in (0, 1):
        ranks(rank, 2)
        halves.append(first(composed(), 42))
    assert [row for pair in zip(*halves, strict=True) for row in pair] == order


@pytest.mark.parametrize("boxed", [0, 4])
def test_a_batch_without_one_of_the_kinds_is_refused(boxed: int) -> None:
    with pytest.raises(ValueError, match="at least one image of each kind"):
        composed(4, boxed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingSampler(5, seed=2),
        lambda: TagBalancedTrainingSampler([[0], [1], [0, 1], []], seed=2),
        lambda: TagRepeatFactorTrainingSampler([[0], [1], [1]], repeat_thresh=0.5, seed=2),
        composed,
    ],
)
def test_a_resumed_order_is_the_rest_of_the_order(make: Any, ranks: Any) -> None:
    whole = first(ResumableSampler(make()), 30)
    assert [position for position, _ in whole] == list(range(30))
    assert first(ResumableSampler(make(), skip=12), 18) == whole[12:]
    ranks(1, 2)
    assert first(ResumableSampler(make(), skip=12), 9) == whole[13::2]


def test_a_sample_depends_on_its_position_alone() -> None:
    class Draws:
        def __getitem__(self, row: int) -> tuple[int, float]:
            return row, np.random.rand()

        def __len__(self) -> int:
            return 5

    data = SeededDataset(Draws(), 7)
    expected = data[3, 1]
    np.random.rand(100)
    assert data[3, 1] == expected and len(data) == 5
    assert data[4, 1][1] != expected[1]
    assert data[3, 2] == (2, expected[1])


def test_samplers_are_chosen_by_name_and_count_tags(weak_cfg: Any) -> None:
    weak: list[dict[str, Any]] = [{"image_labels": [0]}, {"image_labels": []}]
    objects = [{"category_id": 1, "difficult": 1}]
    annotated: list[dict[str, Any]] = [{"annotations": objects}, {"annotations": []}]
    for name in ("TagBalancedTrainingSampler", "TagRepeatFactorTrainingSampler"):
        weak_cfg.DATALOADER.SAMPLER_TRAIN = name
        for records in (weak, annotated):
            found = build_train_sampler(weak_cfg, records, seed=0)
            assert type(found).__name__ == name and set(first(found, 8)) == {0, 1}
    weak_cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    assert build_train_sampler(weak_cfg, annotated, seed=0) is not None
    with pytest.raises(ValueError, match="counts annotations, which a weak"):
        build_train_sampler(weak_cfg, weak, seed=0)
    weak_cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    assert build_train_sampler(weak_cfg, annotated, seed=0) is None
