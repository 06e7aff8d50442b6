"""A resumed training equals an uninterrupted one: the random states of all ranks are kept."""

from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from weaksam_d2.ops.random_state import random_state, set_random_state

__all__ = ["RandomStates"]


class RandomStates(HookBase):  # type: ignore[misc]
    """Puts the random states of every rank into each checkpoint, and restores them.

    To be registered before the checkpointer, on every rank. A checkpoint also says which settings
    decide the place of a sample in the stream; with others there is no exact way on.

    Source: design.md, Sec. 4 (engine).
    """

    def __init__(self, *, period: int, settings: dict[str, int]) -> None:
        """Save every ``period`` iterations and at the end; ``settings`` must not change."""
        self._period = period
        self._settings = {**settings, "world_size": comm.get_world_size()}
        self._saved: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] | None = None

    @classmethod
    def from_config(cls, cfg: Any) -> "RandomStates":
        """Read ``SEED`` and the sizes of ``SOLVER``."""
        node = cfg.SOLVER
        settings = {
            "SEED": cfg.SEED,
            "SOLVER.IMS_PER_BATCH": node.IMS_PER_BATCH,
            "SOLVER.ACCUMULATION_STEPS": node.ACCUMULATION_STEPS,
        }
        return cls(period=node.CHECKPOINT_PERIOD, settings=settings)

    def after_step(self) -> None:
        """Gather the states on rank 0, which writes the checkpoint."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            self._saved = comm.gather(random_state())

    def before_train(self) -> None:
        """Go on from the states of the checkpoint."""
        if self._loaded is not None:
            set_random_state(self._loaded["ranks"][comm.get_rank()])

    def require_states(self, checkpoint: str) -> None:
        """Raise ValueError if the checkpoint that was loaded cannot be continued exactly."""
        if self._loaded is None:
            raise ValueError(
                f"checkpoint '{checkpoint}' was written without SOLVER.EXACT_RESUME and has no "
                "random states; resume with SOLVER.EXACT_RESUME False, or start again"
            )
        found = self._loaded["settings"]
        changed = {key: (found.get(key), now) for key, now in self._settings.items()}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        if changed:
            listed = ", ".join(
                f"{key} was {old} and is {new}" for key, (old, new) in changed.items()
            )
            raise ValueError(
                f"checkpoint '{checkpoint}' cannot be continued exactly: {listed}; restore it, or "
                "resume with SOLVER.EXACT_RESUME False"
            )

    def state_dict(self) -> dict[str, Any]:
        """States of the ranks in their order, and the settings."""
        return {"ranks": self._saved, "settings": self._settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave; it is restored when training begins."""
        self._loaded = state
