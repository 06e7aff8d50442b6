"""The states of all random number generators of a process: to keep, to restore, to seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["preserved_random_state", "random_state", "seeded", "set_random_state"]


def random_state() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and PyTorch's generators (CUDA: current device).

    Only tensors, numbers and tuples, so that a checkpoint that holds it loads with
    ``weights_only``.
    """
    numpy_state: Any = np.random.get_state(legacy=False)
    state = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` gave (``cuda`` only where there is a GPU)."""
    random.setstate(state["python"])
    kept = state["numpy"]
    key = kept["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, kept["pos"], kept["has_gauss"], kept["gauss"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """What is drawn within the context does not change what is drawn after it."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Draw from seeds hashed from two numbers (at least 0) within the context.

    The generators on the CPU are as before afterwards; those of a GPU are not touched.
    """
    python, numpy_seed, torch_seed = np.random.SeedSequence((seed, position)).generate_state(3)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(int(python))
        np.random.seed(int(numpy_seed))
        torch.default_generator.manual_seed(int(torch_seed))
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
