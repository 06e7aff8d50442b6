"""Progress over all processes that make parts of one artifact."""

import logging
import time
from typing import Any

from tqdm import tqdm

from weaksam_d2.engine.stages.part_plan import PartPlan

logger = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # between two looks at the folder of parts


class PartTaken(Exception):
    """Another process has finished the part that this one is making."""


class PartsProgress:
    """A bar over the images of an artifact, whoever makes them.

    The bar counts finished parts of all processes and the images of this one's current part.
    Images that were there at the start enter neither the throughput nor the remaining time.

    Args:
        name: in front of the bar and of the log lines.
        images: of the whole artifact.
        shown: False for all ranks but the first.
        prefix: what distinguishes this process in the log (``rank 1``).
    """

    def __init__(self, name: str, images: int, *, shown: bool = True, prefix: str = "") -> None:
        self._name, self._images = name, images
        self._prefix = f"{prefix}: " if prefix else ""
        self._plan: PartPlan | None = None
        self._part: int | None = None
        self._own = self._finished = self._initial = 0
        self._start = self._looked = time.monotonic()
        self._bar: Any = tqdm(
            total=images,
            desc=name,
            unit="image",
            dynamic_ncols=True,
            mininterval=1.0,
            smoothing=0.0,  # others report whole parts: a mean over the run is steadier
            disable=not shown,
        )

    def watch(self, plan: PartPlan) -> None:
        """Start to count; what is there already is the bar's origin."""
        self._plan = plan
        self._start = time.monotonic()
        self._initial = self._finished = plan.images_done()
        self._bar.initial = self._initial
        self._bar.unpause()
        self._draw()

    def begin(self, part: int | None) -> None:
        """This process makes ``part`` from here on; None: it has left the one it was making."""
        self._part, self._own = part, 0

    def update(self, images: int = 1) -> None:
        """Count images of the current part.

        Raises:
            PartTaken: another process has finished the part meanwhile.
        """
        self._own += images
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.look()
        else:
            self._draw()

    def look(self) -> None:
        """Count the finished parts of all processes again."""
        if self._plan is None:
            return
        self._looked = time.monotonic()
        missing = self._plan.missing()
        self._finished = self._plan.images_done()
        if self._part is not None and self._part not in missing:
            self._own = 0
            self._draw()
            raise PartTaken(f"part {self._part} is there")
        self._draw()

    def finish(self, seconds: float) -> None:
        """The current part is done: log its throughput, that of all processes, and what is left."""
        part, own, self._part, self._own = self._part, self._own, None, 0
        self.look()
        done, elapsed = self._finished, max(time.monotonic() - self._start, 1e-9)
        rate = (done - self._initial) / elapsed
        left = "unknown" if rate == 0 else tqdm.format_interval((self._images - done) / rate)
        logger.info(
            "%s: %spart %s, %d images in %.1f s; all: %d of %d images, %.2f images/s, %s left",
            self._name,
            self._prefix,
            part,
            own,
            seconds,
            done,
            self._images,
            rate,
            left,
        )

    def close(self) -> None:
        """Draw the bar a last time and leave it."""
        self._part = None
        self.look()
        self._bar.close()

    def _draw(self) -> None:
        self._bar.update(min(self._images, self._finished + self._own) - self._bar.n)
