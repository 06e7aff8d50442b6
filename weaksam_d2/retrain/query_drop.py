"""Query drop: leave out of the loss the queries whose pseudo label the detector cannot believe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from weaksam_d2.ops.drop import query_drop_mask

from .drop_log import log_query_drop

__all__ = ["QueryDrop", "QueryDropSettings"]

_ALLOWED = {
    "group": ("things", "things+background"),
    "pool": ("fg", "all_then_fg", "all"),
    "rank": ("bce", "focal"),
    "scope": ("global", "local", "image"),
    "norm": ("total", "kept"),
}


@dataclass(frozen=True)
class QueryDropSettings:
    """When a query is dropped, and from when on; one field for each key of ``MODEL.QUERY_DROP``.

    ``group`` ``things+background`` and ``pool`` ``all`` mean the same. ``rank``, ``encoder``,
    ``denoising`` and ``norm`` are for the criterion that makes the losses; ``start_iter`` counts
    iterations from 0.

    Source: WeakSAM, Sec. 3.4, Eq. 3-4; weaksam.md, Sec. 7.3.
    """

    enabled: bool = True
    percentile: int = 90
    group: str = "things"
    pool: str = "fg"
    rank: str = "bce"
    scope: str = "global"
    encoder: bool = True
    denoising: bool = False
    start_iter: int = 0
    norm: str = "total"

    def __post_init__(self) -> None:
        for name, values in _ALLOWED.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"MODEL.QUERY_DROP.{name.upper()} is {getattr(self, name)!r}, expected one of "
                    f"{', '.join(repr(value) for value in values)}"
                )
        if isinstance(self.percentile, float) or not 1 <= self.percentile <= 100:
            raise ValueError(
                "MODEL.QUERY_DROP.PERCENTILE must be a whole number of percent in [1, 100], "
                f"got {self.percentile!r}"
            )
        if self.start_iter < 0:
            raise ValueError(f"MODEL.QUERY_DROP.START_ITER must be >= 0, got {self.start_iter}")

    @classmethod
    def from_config(cls, cfg: Any) -> "QueryDropSettings":
        """Read ``MODEL.QUERY_DROP``.

        Raises:
            ValueError: a value that is not allowed, named with its key.
        """
        node = cfg.MODEL.QUERY_DROP
        return cls(**{name: node[name.upper()] for name in cls.__dataclass_fields__})

    @property
    def ranked_among(self) -> str:
        """The pool of :func:`query_drop_mask`."""
        return "all" if self.group == "things+background" else self.pool


class QueryDrop:
    """Decides for all output layers of a step at once which queries teach.

    Any criterion that matches queries to objects can use it: call it with the rank losses
    (``ops.drop.query_rank_loss``, or those of your own) and leave the rows of dropped queries out
    of every loss. A dropped query does not become background.

    With scope ``global`` the queries of all ranks are ranked together: one gathering for a step,
    in which every rank takes part whether or not its images have objects.
    """

    def __init__(self, settings: QueryDropSettings) -> None:
        self.settings = settings

    def active(self) -> bool:
        """Whether queries are dropped in this iteration (always, outside a trainer)."""
        if not self.settings.enabled or self.settings.percentile == 100:
            return False
        return not has_event_storage() or get_event_storage().iter >= self.settings.start_iter

    @torch.no_grad()
    def __call__(self, rank_losses: Sequence[Tensor], matched: Sequence[Tensor]) -> list[Tensor]:
        """Which queries stay in the loss.

        Args:
            rank_losses: for each output layer (N, Q) of N images, the final layer last; Q may
                differ between layers.
            matched: bool (N, Q) of each layer; queries with an object.

        Returns:
            For each layer bool (N, Q), True is kept. Before ``start_iter``, and if switched off,
            all of them.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        active = self.active()
        if self.settings.enabled and has_event_storage():
            get_event_storage().put_scalar("query_drop/active", float(active))
        if not active:
            return [torch.ones_like(one, dtype=torch.bool) for one in matched]
        if self.settings.scope == "image":
            kept = [self._by_image(*pair) for pair in zip(rank_losses, matched, strict=True)]
        else:
            kept = self._by_batch(rank_losses, matched)
        if matched:
            log_query_drop(rank_losses[-1], matched[-1], kept[-1])
        return kept

    def _mask(self, loss: Tensor, matched: Tensor) -> Tensor:
        return query_drop_mask(
            loss,
            percentile=self.settings.percentile,
            foreground=matched,
            pool=self.settings.ranked_among,
        )

    def _by_image(self, loss: Tensor, matched: Tensor) -> Tensor:
        rows = [self._mask(*pair) for pair in zip(loss.float(), matched, strict=True)]
        return torch.stack(rows) if rows else torch.ones_like(matched)

    def _by_batch(self, losses: Sequence[Tensor], matched: Sequence[Tensor]) -> list[Tensor]:
        others = self._of_other_ranks(losses, matched)
        kept = []
        for layer, (loss, own) in enumerate(zip(losses, matched, strict=True)):
            pool = [loss.float().flatten(), *(loss for loss, _ in others[layer])]
            members = [own.flatten(), *(member for _, member in others[layer])]
            mask = self._mask(torch.cat(pool), torch.cat(members))
            kept.append(mask[: own.numel()].view(own.shape))
        return kept

    def _of_other_ranks(
        self, losses: Sequence[Tensor], matched: Sequence[Tensor]
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """For each layer the losses and the matched flags of every other rank, flat."""
        world = comm.get_world_size()
        if world == 1 or self.settings.scope == "local":
            return [[] for _ in losses]
        sent = _packed(losses, matched, only_matched=self.settings.ranked_among == "fg")
        length = torch.tensor([sent.shape[1]], device=sent.device)
        lengths = [torch.empty_like(length) for _ in range(world)]
        dist.all_gather(lengths, length)
        longest = max(int(one) for one in lengths)
        padded = sent.new_full((3, longest), -1.0)
        padded[:, : sent.shape[1]] = sent
        gathered = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(gathered, padded)
        others = [one for rank, one in enumerate(gathered) if rank != comm.get_rank()]
        return [
            [(one[1, one[0] == layer], one[2, one[0] == layer] > 0) for one in others]
            for layer in range(len(losses))
        ]


def _packed(losses: Sequence[Tensor], matched: Sequence[Tensor], *, only_matched: bool) -> Tensor:
    """All layers as one tensor (3, n): number of the layer, loss, whether it is matched."""
    columns = []
    for layer, (loss, member) in enumerate(zip(losses, matched, strict=True)):
        chosen = member if only_matched else torch.ones_like(member)
        values, flags = loss.float()[chosen], member[chosen].float()
        columns.append(torch.stack([torch.full_like(values, layer), values, flags]))
    return torch.cat(columns, dim=1)
