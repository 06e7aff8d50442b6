"""What RoI drop and query drop write into the event storage."""

import logging

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.logger import log_first_n
from torch import Tensor

from .limits import Limits

__all__ = ["log_drop", "log_limits", "log_query_drop"]

SUSPICIOUS_DROP = 0.3  # of the foreground; the paper's errors are a few percent


@torch.no_grad()
def log_drop(
    cls_loss: Tensor, box_loss: Tensor, foreground: Tensor, keep: Tensor, limits: Limits
) -> None:
    """Write the shares of dropped regions of a batch; nothing outside a trainer.

    ``roi_drop/frac_fg`` and ``frac_bg``: dropped share of foreground and of background;
    ``by_cls``, ``by_reg``: share of all regions above the limit of that loss;
    ``mean_lcls_dropped``: mean classification loss of what was dropped. Warns once if more than
    30 % of the foreground goes.

    Source: weaksam.md, Sec. 7.2.
    """
    if not has_event_storage():
        return
    dropped = ~keep
    counts = torch.stack(
        [
            (dropped & foreground).sum(),
            foreground.sum(),
            (dropped & ~foreground).sum(),
            (~foreground).sum(),
            (cls_loss > limits.classification).sum(),
            (foreground & (box_loss > limits.box)).sum(),
            torch.where(dropped, cls_loss, 0.0).sum(),
        ]
    ).tolist()  # one device synchronization for all
    fg_dropped, fg, bg_dropped, bg, by_cls, by_reg, loss = counts
    storage = get_event_storage()
    storage.put_scalar("roi_drop/by_cls", by_cls / len(keep))
    storage.put_scalar("roi_drop/by_reg", by_reg / len(keep))
    if fg:
        storage.put_scalar("roi_drop/frac_fg", fg_dropped / fg)
    if bg:
        storage.put_scalar("roi_drop/frac_bg", bg_dropped / bg)
    if fg_dropped + bg_dropped:
        storage.put_scalar("roi_drop/mean_lcls_dropped", loss / (fg_dropped + bg_dropped))
    if fg and fg_dropped / fg > SUSPICIOUS_DROP:
        message = "RoI drop left out %d of %d foreground regions; are its thresholds too low?"
        log_first_n(logging.WARNING, message % (fg_dropped, fg), n=1)


def log_limits(running: Tensor, names: tuple[str, ...]) -> None:
    """Write running limits as ``roi_drop/limit_<name>``, those that there are."""
    if has_event_storage():
        for name, value in zip(names, running.tolist(), strict=True):
            if value == value:
                get_event_storage().put_scalar(f"roi_drop/limit_{name}", value)


@torch.no_grad()
def log_query_drop(rank_loss: Tensor, matched: Tensor, keep: Tensor) -> None:
    """Write the shares of dropped queries of one layer; nothing outside a trainer.

    rank_loss, matched and keep are (N, Q). ``query_drop/frac_fg`` and ``frac_bg``: dropped share of
    the matched and of the other queries; ``mean_rank_dropped``: mean rank loss of what was dropped.
    """
    if not has_event_storage():
        return
    dropped = ~keep
    counts = torch.stack(
        [
            (dropped & matched).sum(),
            matched.sum(),
            (dropped & ~matched).sum(),
            (~matched).sum(),
            torch.where(dropped, rank_loss.float(), 0.0).sum(),
        ]
    ).tolist()  # one device synchronization for all
    fg_dropped, fg, bg_dropped, bg, loss = counts
    storage = get_event_storage()
    if fg:
        storage.put_scalar("query_drop/frac_fg", fg_dropped / fg)
    if bg:
        storage.put_scalar("query_drop/frac_bg", bg_dropped / bg)
    if fg_dropped + bg_dropped:
        storage.put_scalar("query_drop/mean_rank_dropped", loss / (fg_dropped + bg_dropped))
