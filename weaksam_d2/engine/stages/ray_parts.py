"""Parts of an artifact as tasks of Ray, which finds machines for them and repeats lost ones.

Ray is an extra (``pip install weaksam_d2[ray]``) and imported only when it is asked for.
"""

import argparse
import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.engine.stages.part_plan import PartPlan

logger = logging.getLogger(__name__)
Main = Callable[[argparse.Namespace], Any]
POLL_SECONDS = 1.0


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        ImportError: it is not installed; says how to install it.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(f"--ray needs Ray ({error}): pip install 'weaksam_d2[ray]'") from error
    return ray


def ray_dispatch(main: Main, args: argparse.Namespace, cfg: Any) -> Callable[..., None]:
    """A ``StageRequest.dispatch`` that has each pending part made by one Ray task.

    A task is the tool itself, as shard p of as many shards as there are parts; this process joins
    the parts afterwards. A task whose worker dies is repeated ``WEAKSAM.RAY.MAX_RETRIES`` times by
    Ray; what is lost even so is made by this process.

    Args:
        main: the tool's ``main(args)``.
        args: its command line; ``args.ray`` is the address that ``ray.init`` takes.
        cfg: ``WEAKSAM.RAY`` and ``MODEL.DEVICE``.

    Raises:
        ImportError: Ray is not installed.
    """
    ray = import_ray()
    settings = cfg.WEAKSAM.RAY
    gpus = (
        float(cfg.MODEL.DEVICE.startswith("cuda")) if settings.NUM_GPUS < 0 else settings.NUM_GPUS
    )
    options = {
        "num_cpus": settings.NUM_CPUS,
        "num_gpus": gpus,
        "max_retries": settings.MAX_RETRIES,
    }

    def dispatch(pending: Sequence[int], plan: PartPlan, look: Callable[[], None]) -> None:
        started = not ray.is_initialized()
        if started:
            ray.init(address=args.ray, log_to_driver=False)
        try:
            task = ray.remote(**options)(_make_part)
            arguments = _portable(args, shards=len(plan.ranges))
            _wait(ray, {task.remote(main, arguments, part): part for part in pending}, look)
        finally:
            if started:
                ray.shutdown()

    return dispatch


def _make_part(main: Main, args: argparse.Namespace, part: int) -> None:
    args.shard = part
    main(args)


def _portable(args: argparse.Namespace, shards: int) -> argparse.Namespace:
    """The command line of a task: as shards, without Ray, with paths that hold in any folder."""
    changed = copy.copy(args)
    changed.ray, changed.overwrite, changed.part_size = None, False, 0
    changed.num_shards, changed.join = shards, False
    changed.config_file = str(Path(args.config_file).resolve())
    changed.output = args.output.resolve()
    changed.input = args.input and args.input.resolve()
    return changed


def _wait(ray: Any, tasks: dict[Any, int], look: Callable[[], None]) -> None:
    left = list(tasks)
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=POLL_SECONDS)
        look()
        for task in done:
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                logger.warning("part %d is made here, its task failed: %s", tasks[task], error)
