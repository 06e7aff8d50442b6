"""Running percentiles of RoI drop, made equal on all ranks when a checkpoint is written."""

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from weaksam_d2.retrain import PercentileLimits

__all__ = ["EqualDropLimits"]


class EqualDropLimits(HookBase):  # type: ignore[misc]
    """Gives every rank the mean of the ranks' running limits, at checkpoints only.

    To be registered before the checkpointer, on every rank: a checkpoint holds rank 0's buffers,
    and a resumed run gives them to all.

    Source: extras.md, Sec. 3.
    """

    def __init__(self, model: nn.Module, *, period: int) -> None:
        """Act every ``period`` iterations and at the end."""
        self._limits = [m for m in model.modules() if isinstance(m, PercentileLimits)]
        self._period = period

    def after_step(self) -> None:
        """Average in the iterations after which a checkpoint is written."""
        done = self.trainer.iter + 1
        if self._limits and (done % self._period == 0 or done >= self.trainer.max_iter):
            for limits in self._limits:
                limits.merge_running(comm.all_gather(limits.running.cpu()))
