"""What the command lines of ``tools/`` share: flags, config, exit codes, start of processes."""

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser as detectron2_argument_parser
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from weaksam_d2 import add_weaksam_config
from weaksam_d2.artifacts import ArtifactError
from weaksam_d2.data import prepare_datasets
from weaksam_d2.weights import WeightsError

logger = logging.getLogger(__name__)

# Read by glibc and by OpenMP once, when a process starts.
# SAM's decoder allocates and frees large temporaries; keeping them in the heap saves page faults.
# Threads that spin while they wait for each other are up to fifty times slower on a machine that
# does something else as well, and hardly faster on a quiet one.
PROCESS_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "OMP_WAIT_POLICY": "PASSIVE",
}
ConfigExtension = Callable[[Any], None]
USER_ERRORS = (
    ArtifactError,
    WeightsError,
    FloatingPointError,
    ImportError,
    OSError,
    KeyError,
    ValueError,
)


def train_argument_parser(epilog: str = "") -> argparse.ArgumentParser:
    """detectron2's own flags, and ``--register`` for modules that register data sets."""
    parser: argparse.ArgumentParser = detectron2_argument_parser(epilog=epilog or None)
    _add_register(parser)
    return parser


def stage_argument_parser(description: str) -> argparse.ArgumentParser:
    """Flags of a tool that makes one artifact: the same names everywhere."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", type=Path, help="folder or file that this stage reads")
    parser.add_argument("--output", type=Path, required=True, help="artifact to write")
    parser.add_argument("--num-shards", type=int, default=1)
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    _add_register(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser


def add_parts_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of a tool that makes its artifact in parts: ranks, machines, size of a part."""
    parser.add_argument(
        "--part-size",
        type=int,
        default=0,
        help="images of a part, the most that a kill loses (default: 64, or as begun); the "
        "artifact does not depend on it",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="ranks on this machine (processes on a CPU)"
    )
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument(
        "--dist-url", default="", help="taken as train_net.py does; ranks meet in --output only"
    )
    parser.set_defaults(rank=0, ranks=1, join=True)


def check_parts_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with a usage error (exit code 2) where these flags contradict each other."""
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    ranks = args.num_gpus * args.num_machines
    if min(args.num_gpus, args.num_machines, args.num_shards) < 1 or args.part_size < 0:
        parser.error("--num-gpus, --num-machines, --num-shards and --part-size must be positive")
    if not 0 <= args.machine_rank < args.num_machines:
        parser.error(f"--machine-rank must be in [0, {args.num_machines})")
    if started > 1 and ranks > 1:
        parser.error("torchrun has started the ranks: leave out --num-gpus and --num-machines")
    if max(started, ranks) > 1 and args.num_shards > 1:
        parser.error("give either ranks (--num-gpus, torchrun) or --num-shards, not both")
    if args.overwrite and (started > 1 or args.num_machines > 1 or args.num_shards > 1):
        parser.error(
            "--overwrite by one of several processes would remove what the others make: remove "
            f"{args.output} and {args.output}.parts yourself"
        )


def _add_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--register",
        action="append",
        default=[],
        metavar="MODULE",
        help="module to import first (it registers data sets); may be given several times",
    )


def base_config(extend: ConfigExtension | None = None) -> CfgNode:
    """detectron2's defaults with our keys, and those that ``extend(cfg)`` adds (projects)."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    if extend is not None:
        extend(cfg)
    return cfg


def setup(args: argparse.Namespace, extend: ConfigExtension | None = None) -> CfgNode:
    """Make the config of a command, register its data sets, start logging and seed all RNGs.

    ``extend`` is ``weaksam_d2.projects.add_all_configs`` in every tool: the engine lies below the
    projects and may not know them.
    """
    cfg = base_config(extend)
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(list(args.opts))
    if args.register:
        cfg.DATASETS.REGISTER = (*cfg.DATASETS.REGISTER, *args.register)
    resolve_device(cfg)
    prepare_datasets(cfg)
    cfg.freeze()
    start_logging(cfg.OUTPUT_DIR if hasattr(args, "eval_only") else None)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    return cfg


def resolve_device(cfg: CfgNode) -> None:
    """Replace ``MODEL.DEVICE "auto"`` by ``cuda`` where there is a GPU, else ``cpu``, in place."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def start_logging(output: str | Path | None) -> None:
    """Log detectron2's and our messages, colored on a terminal, and to ``output/log.txt``."""
    rank = comm.get_rank()
    for name in ("detectron2", "fvcore", "weaksam_d2"):
        if not logging.getLogger(name).handlers:
            setup_logger(None, distributed_rank=rank, name=name)
        if output is not None:
            Path(output).mkdir(parents=True, exist_ok=True)
            setup_logger(str(output), distributed_rank=rank, name=name, configure_stdout=False)


def run_distributed(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Start ``main(args)`` on each process: from ``torchrun``'s variables, else by ``launch``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        cuda = torch.cuda.is_available()
        local = int(os.environ["LOCAL_RANK"])
        if cuda:
            torch.cuda.set_device(local)
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        main(args)
        torch.distributed.destroy_process_group()
        return
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def prepare_process() -> None:
    """Start this process once more with PROCESS_ENVIRONMENT; what the user has set stays."""
    missing = {key: v for key, v in PROCESS_ENVIRONMENT.items() if key not in os.environ}
    if sys.platform == "linux" and missing:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **missing})


def run_command(command: Callable[[], Any]) -> NoReturn:
    """Run a tool and leave with its exit code.

    0: done; 1: failed on data or environment, the message says why; 2: wrong usage (argparse);
    130: interrupted, the command that resumes is printed. ``WEAKSAM_TRACEBACK=1`` shows where an
    error came from.
    """
    try:
        command()
    except KeyboardInterrupt:
        print(f"\ninterrupted; to resume: {resume_command(sys.argv)}", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        if os.environ.get("WEAKSAM_TRACEBACK") == "1":
            traceback.print_exc()
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{Path(sys.argv[0]).name}: {type(error).__name__}: {text}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def resume_command(argv: Sequence[str]) -> str:
    """The command line that goes on where an interrupted one stopped."""
    again = ["python", *argv]
    if Path(argv[0]).name == "train_net.py" and "--resume" not in argv:
        again.insert(2, "--resume")
    return shlex.join([word for word in again if word != "--overwrite"])
