"""A data set of three images, and stores of boxes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter

HEIGHT, WIDTH = 40, 60


@pytest.fixture()
def records() -> list[dict[str, Any]]:
    """VOC 2007, VOC 2012 and an image without boxes."""
    return [
        {"image_id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"images/{i}.jpg"}
        for i in ("000005", "2008_000002", "000012")
    ]


@pytest.fixture()
def write_store(tmp_path: Path) -> Callable[..., ProposalStore]:
    """Store of random boxes: {image id: count}, with scores, sources and masks if asked for."""

    def write(
        counts: dict[str, int],
        name: str = "store",
        *,
        scores: bool = False,
        sources: tuple[str, ...] = (),
        masks: bool = False,
        seed: int = 0,
    ) -> ProposalStore:
        rng = np.random.default_rng(seed)
        with ProposalStoreWriter(tmp_path / name, source_names=sources) as writer:
            for image_id, n in counts.items():
                start = rng.uniform(0, 20, (n, 2))
                boxes = np.concatenate([start, start + rng.uniform(1, 15, (n, 2))], axis=1)
                writer.add(
                    image_id,
                    boxes,
                    scores=rng.random(n) if scores else None,
                    sources=rng.integers(0, len(sources), n) if sources else None,
                    # 40 x 60 pixels: 9, then 1 + row inside, then the rest.
                    masks=[_runs([9, 1 + row, 2390 - row]) for row in range(n)] if masks else None,
                    image_size=(HEIGHT, WIDTH),
                )
        return ProposalStore.open(tmp_path / name)

    return write


def _runs(runs: list[int]) -> bytes:
    from pycocotools import mask

    return mask.frPyObjects({"size": [HEIGHT, WIDTH], "counts": runs}, HEIGHT, WIDTH)["counts"]
