"""States of the random number generators: kept, restored, seeded."""

import io
import random

import numpy as np
import torch

from weaksam_d2.ops.random_state import (
    preserved_random_state,
    random_state,
    seeded,
    set_random_state,
)


def draw() -> tuple[float, float, float, float]:
    return random.random(), np.random.normal(), torch.rand(1).item(), torch.randn(1).item()


def test_a_state_that_went_through_a_checkpoint_gives_the_same_numbers() -> None:
    np.random.normal()  # NumPy keeps the second of two normal numbers
    file = io.BytesIO()
    torch.save(random_state(), file)
    expected = draw(), draw()
    file.seek(0)
    set_random_state(torch.load(file, weights_only=True))
    assert (draw(), draw()) == expected


def test_draws_within_the_context_do_not_change_those_after_it() -> None:
    state = random_state()
    expected = draw()
    set_random_state(state)
    with preserved_random_state():
        draw()
        np.random.seed(0)
    assert draw() == expected


def test_seeded_draws_depend_on_seed_and_position_alone() -> None:
    def at(seed: int, position: int) -> tuple[float, ...]:
        draw()
        with seeded(seed, position):
            return draw()

    assert at(3, 10) == at(3, 10)
    assert len({at(3, 10), at(3, 11), at(4, 10), at(10, 3)}) == 4
    state = random_state()
    expected = draw()
    set_random_state(state)
    with seeded(0, 0):
        draw()
    assert draw() == expected
