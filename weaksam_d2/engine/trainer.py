"""One trainer for classifiers, weakly supervised detectors and retraining."""

import contextlib
import logging
import math
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.engine.defaults import default_writers
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.data import build_test_loader, build_train_loader
from weaksam_d2.engine.adversarial_step import AdversarialStep
from weaksam_d2.engine.optimizer import build_optimizer
from weaksam_d2.evaluation import build_evaluator

logger = logging.getLogger(__name__)
AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def wrap_distributed(model: nn.Module) -> nn.Module:
    """Wrap a model for data-parallel training; on a CPU (gloo) without device ids."""
    if comm.get_world_size() == 1:
        return model
    on_cuda = next(model.parameters()).is_cuda
    device_ids = [comm.get_local_rank()] if on_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


class WeakSAMTrainer(TrainerBase):
    """Trains the model that a config describes, from its own hooks, loaders and evaluators.

    Made of detectron2's hooks, checkpointer, writers and schedulers. Unlike ``DefaultTrainer`` it
    accumulates gradients (``SOLVER.ACCUMULATION_STEPS`` batches for each update), runs mixed
    precision on CUDA and CPU, distributes over gloo, and names image and loss when a loss is NaN.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = cfg
        model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        self.adversarial = AdversarialStep.from_config(cfg, model)
        self.model = wrap_distributed(model)
        self.data_loader = build_train_loader(cfg)
        self._batches: Iterator[list[dict[str, Any]]] | None = None
        self._amp = _autocast_dtype(cfg)
        on_cuda = cfg.MODEL.DEVICE.startswith("cuda")
        self.grad_scaler = torch.amp.GradScaler(
            "cuda", enabled=on_cuda and self._amp == torch.float16
        )
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self._build_hooks())

    def _build_hooks(self) -> list[HookBase]:
        cfg = self.cfg
        built: list[HookBase] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if comm.is_main_process():
            built.append(
                hooks.PeriodicCheckpointer(
                    self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=2
                )
            )
        if cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0:
            built.append(
                hooks.EvalHook(
                    cfg.TEST.EVAL_PERIOD, lambda: flat_results(self.test(cfg, self.model))
                )
            )
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(default_writers(cfg.OUTPUT_DIR, self.max_iter), 20))
        return built

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint and its iteration."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1

    def train(self) -> None:  # type: ignore[override]
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``."""
        super().train(self.start_iter, self.max_iter)

    def run_step(self) -> None:
        """Make one optimizer update from ``SOLVER.ACCUMULATION_STEPS`` batches.

        Raises:
            FloatingPointError: if a loss is not finite; names the loss and the images.
        """
        steps = self.cfg.SOLVER.ACCUMULATION_STEPS
        self.optimizer.zero_grad()
        totals: dict[str, torch.Tensor] = {}
        batches: list[list[dict[str, Any]]] = []
        data_time = 0.0
        for step in range(steps):
            start = time.perf_counter()
            batch = self._next_batch()
            data_time += time.perf_counter() - start
            if self.adversarial is not None:
                batches.append(batch)
            with self._no_sync(step < steps - 1):
                losses = self._losses(batch)
                check_finite(losses, batch, self.iter)
                self.grad_scaler.scale(sum(losses.values()) / steps).backward()
            for key, value in losses.items():
                totals[key] = totals.get(key, torch.zeros(())) + value.detach().cpu() / steps
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.adversarial is not None:
            self.adversarial.step(batches, self._autocast)
        SimpleTrainer.write_metrics(totals, data_time, self.iter)

    def _next_batch(self) -> list[dict[str, Any]]:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return next(self._batches)

    def _losses(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        with self._autocast():
            losses: dict[str, torch.Tensor] = self.model(batch)
        return losses

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        device = self.cfg.MODEL.DEVICE.split(":")[0]
        return torch.autocast(device, dtype=self._amp, enabled=self._amp is not None)

    def _no_sync(self, accumulating: bool) -> contextlib.AbstractContextManager[Any]:
        if accumulating and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Add the optimizer and the gradient scaler to the state of the hooks."""
        state: dict[str, Any] = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        if self.adversarial is not None:
            state["adversarial"] = self.adversarial.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if self.adversarial is not None:
            self.adversarial.load_state_dict(state_dict["adversarial"])

    @staticmethod
    def test(cfg: Any, model: nn.Module) -> dict[str, dict[str, Any]]:
        """Run a model over each set of ``DATASETS.TEST``; results by data set, then task."""
        results = {}
        for name in cfg.DATASETS.TEST:
            folder = Path(cfg.OUTPUT_DIR) / "inference" / name
            evaluator = build_evaluator(cfg, name, str(folder))
            results[name] = inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
        return results


def flat_results(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Join nested results to ``dataset/task/metric`` names, finite numbers only.

    A class without an object has no AP (NaN): it is absent, not zero.
    """
    flat: dict[str, float] = {}
    for name, tasks in results.items():
        for task, metrics in (tasks or {}).items():
            for metric, value in metrics.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    flat[f"{name}/{task}/{metric}"] = float(value)
    return flat


def check_finite(
    losses: Mapping[str, torch.Tensor], batch: list[dict[str, Any]], iteration: int
) -> None:
    """Stop training at the first loss that is not finite.

    Raises:
        FloatingPointError: names the iteration, the losses and the image ids of the batch.
    """
    bad = {k: float(v) for k, v in losses.items() if not bool(torch.isfinite(v))}
    if bad:
        images = ", ".join(str(item.get("image_id", "?")) for item in batch)
        raise FloatingPointError(
            f"iteration {iteration}: {bad} on images {images}; lower SOLVER.BASE_LR, or look at "
            "these images, their labels and their proposals"
        )


def _autocast_dtype(cfg: Any) -> torch.dtype | None:
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}, expected {' or '.join(AMP_DTYPES)}")
    if name == "float16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError("SOLVER.AMP.DTYPE float16 needs CUDA; use bfloat16 on a CPU")
    return AMP_DTYPES[name]
