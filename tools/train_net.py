"""Train or evaluate any model of weaksam_d2: classifiers, WSOD, retraining, projects.

Example:
    python tools/train_net.py --config-file configs/PascalVOC-Detection/oicr_V_16_1x.yaml \
        --num-gpus 1 OUTPUT_DIR output/oicr
    python tools/train_net.py --config-file … --eval-only MODEL.WEIGHTS output/oicr/model_final.pth
"""

import argparse
from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils import comm

from weaksam_d2.artifacts import write_json
from weaksam_d2.engine.cli import (
    prepare_process,
    run_command,
    run_distributed,
    setup,
    train_argument_parser,
)
from weaksam_d2.engine.training.ema_teacher import load_with_teacher
from weaksam_d2.engine.training.trainer import WeakSAMTrainer, flat_results
from weaksam_d2.projects import add_all_configs


def main(args: argparse.Namespace) -> None:
    """Train from scratch, resume, or evaluate the weights of ``MODEL.WEIGHTS``."""
    cfg = setup(args, add_all_configs)
    if args.eval_only:
        model = build_model(cfg)
        saved = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        last = args.resume and saved.has_checkpoint()
        path = saved.get_checkpoint_file() if last else cfg.MODEL.WEIGHTS
        teacher = load_with_teacher(cfg, model, path)
    else:
        trainer = WeakSAMTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        model = trainer.model
        teacher = None if trainer.teacher is None else trainer.teacher.model
    if cfg.DATASETS.TEST:
        results = flat_results(WeakSAMTrainer.test(cfg, model, teacher))
        if comm.is_main_process():
            write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
            for name, value in results.items():
                print(f"{name}: {value:.4g}")


def parse_args() -> argparse.Namespace:
    """The command line."""
    return train_argument_parser(epilog=__doc__ or "").parse_args()


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: run_distributed(main, arguments))
