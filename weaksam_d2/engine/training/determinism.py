"""Deterministic training: only algorithms that give the same bits in every run."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["deterministic_algorithms", "prepare_determinism"]

# cuBLAS is deterministic with a workspace of fixed size; read when its handle is made.
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
_MESSAGE = re.compile(r"^(\S+) does not have a deterministic implementation")


def prepare_determinism(cfg: Any) -> bool:
    """Return ``SOLVER.DETERMINISTIC``; to be called before anything runs on a GPU.

    Raises:
        ValueError: without a ``SEED`` no run equals another.
    """
    if not cfg.SOLVER.DETERMINISTIC:
        return False
    if cfg.SEED < 0:
        raise ValueError("SOLVER.DETERMINISTIC needs a SEED of 0 or more, it is not set (-1)")
    os.environ.setdefault(*CUBLAS)
    return True


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Within the context, if enabled, operators without a deterministic algorithm are an error.

    cuDNN neither measures which algorithm is fastest nor takes one that is not deterministic. A
    loader may still depend on the number of workers: ``SOLVER.EXACT_RESUME`` is for that.

    Raises:
        ValueError: names the operator, and what to do.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    except RuntimeError as error:
        found = _MESSAGE.search(str(error))
        if found is None:
            raise
        raise ValueError(
            f"SOLVER.DETERMINISTIC is True and the operator {found.group(1)} has no deterministic "
            "implementation on this device; use another one (for RoI pooling "
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlignV2), train on a CPU, or set it to False"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before[1:]
