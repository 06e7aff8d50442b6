"""Start the ranks of a tool that makes an artifact in parts.

Ranks meet in the folder of parts and nowhere else: there is no process group and no barrier, so a
rank that dies keeps nobody waiting.
"""

import argparse
import copy
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

from weaksam_d2.artifacts import parts_root
from weaksam_d2.engine.cli import USER_ERRORS, start_logging
from weaksam_d2.engine.stages.stage import remove_artifact

logger = logging.getLogger(__name__)
Main = Callable[[argparse.Namespace], Any]


def run_ranks(main: Main, args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every rank, with ``args.rank`` and ``args.ranks`` set.

    Under ``torchrun`` this process is one of its ranks; else ``--num-gpus`` ranks are started on
    this machine. Then a rank that dies is survived: the others do its parts, and what is left when
    all have ended is done by this process. More ranks than GPUs share them; on a CPU the threads
    are divided.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        environment = {name: int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")}
        _use_device(int(os.environ["LOCAL_RANK"]), 1)  # torchrun has limited the threads
        main(_ranked(args, environment["RANK"], environment["WORLD_SIZE"]))
    elif args.num_gpus * args.num_machines > 1:
        _start_ranks(main, args)
    else:
        main(args)


def _start_ranks(main: Main, args: argparse.Namespace) -> None:
    start_logging(None)
    if args.overwrite:  # once, before the ranks begin; the parser allows it on one machine only
        for folder in (args.output, parts_root(args.output)):
            remove_artifact(folder)
        args = _changed(args, overwrite=False)
    first, ranks = args.machine_rank * args.num_gpus, args.num_machines * args.num_gpus
    context = multiprocessing.start_processes(
        _rank_main, args=(main, args), nprocs=args.num_gpus, join=False
    )
    try:
        for process in context.processes:
            process.join()
    except BaseException:
        for process in context.processes:
            process.terminate()
        raise
    failed = {first + i: p.exitcode for i, p in enumerate(context.processes) if p.exitcode != 0}
    if failed:
        logger.warning("ranks ended early (rank: exit code): %s; doing what they left", failed)
        main(_ranked(args, first, ranks) if args.num_machines > 1 else args)


def _rank_main(local: int, main: Main, args: argparse.Namespace) -> None:
    _use_device(local, args.num_gpus)
    rank = args.machine_rank * args.num_gpus + local
    try:
        main(_ranked(args, rank, args.num_machines * args.num_gpus))
    except USER_ERRORS as error:
        logger.error("rank %d: %s: %s", rank, type(error).__name__, error)
        sys.exit(1)


def _use_device(local: int, processes: int) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def _ranked(args: argparse.Namespace, rank: int, ranks: int) -> argparse.Namespace:
    return _changed(args, rank=rank, ranks=ranks)


def _changed(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    changed = copy.copy(args)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
