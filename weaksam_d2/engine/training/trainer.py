"""One trainer for classifiers, weakly supervised detectors and retraining."""

import contextlib
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.engine.defaults import default_writers
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.projects.deeplab import build_lr_scheduler  # knows WarmupPolyLR as well
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.artifacts import write_json
from weaksam_d2.data import (
    build_test_loader,
    build_train_loader,
    describe_boxes,
    skip_iterations,
)
from weaksam_d2.engine.training.adversarial_step import AdversarialStep
from weaksam_d2.engine.training.class_count import check_class_count
from weaksam_d2.engine.training.determinism import deterministic_algorithms, prepare_determinism
from weaksam_d2.engine.training.drop_limits import EqualDropLimits
from weaksam_d2.engine.training.ema_teacher import TEACHER_ROW, EMATeacher, UpdateTeacher
from weaksam_d2.engine.training.exact_resume import RandomStates
from weaksam_d2.engine.training.inference_views import with_test_views
from weaksam_d2.engine.training.optimizer import build_optimizer
from weaksam_d2.engine.training.supervision import box_supervised_weights
from weaksam_d2.evaluation import build_evaluator, class_table
from weaksam_d2.ops.random_state import preserved_random_state

logger = logging.getLogger(__name__)
BOX_IMAGES = "box_images.json"
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
    With ``SOLVER.EXACT_RESUME`` a resumed run equals an uninterrupted one bit for bit, with
    ``SOLVER.DETERMINISTIC`` only deterministic algorithms run.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        check_class_count(cfg)
        if source := box_supervised_weights(cfg):
            logger.warning("training starts from '%s', which has learned from boxes", source)
        self.cfg = cfg
        self._deterministic = prepare_determinism(cfg)
        model = build_model(cfg)
        self.teacher = EMATeacher.from_config(cfg, model)
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
        averaged = {} if self.teacher is None else {"ema": self.teacher}
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **averaged
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self._random_states = RandomStates.from_config(cfg) if cfg.SOLVER.EXACT_RESUME else None
        self.register_hooks(self._build_hooks())

    def _build_hooks(self) -> list[HookBase]:
        cfg = self.cfg
        built: list[HookBase] = [
            hooks.IterationTimer(),
            hooks.LRScheduler(self.optimizer, self.scheduler),
        ]
        if self._random_states is not None:
            built.append(self._random_states)
        if comm.get_world_size() > 1:
            built.append(EqualDropLimits(self.model, period=cfg.SOLVER.CHECKPOINT_PERIOD))
        if self.teacher is not None:
            built.append(UpdateTeacher(self.teacher))
        if comm.is_main_process():
            built.append(
                hooks.PeriodicCheckpointer(
                    self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=2
                )
            )
        if cfg.DATASETS.TEST and cfg.TEST.EVAL_PERIOD > 0:
            built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate))
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(default_writers(cfg.OUTPUT_DIR, self.max_iter), 20))
        return built

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint and its iteration.

        Raises:
            ValueError: ``SOLVER.EXACT_RESUME`` and a checkpoint that cannot be continued exactly,
                or a teacher and a checkpoint without one.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        resumed = resume and self.checkpointer.has_checkpoint()
        if self.teacher is not None and resumed:
            self.teacher.require_loaded(self.checkpointer.get_checkpoint_file())
        elif self.teacher is not None:
            self.teacher.restart(self.checkpointer.model)
        if resumed:
            self.start_iter = self.iter + 1
            if self._random_states is not None:
                self._random_states.require_states(self.checkpointer.get_checkpoint_file())
                skip_iterations(self.cfg, self.data_loader, self.start_iter)

    def train(self) -> None:  # type: ignore[override]
        """Train from ``start_iter`` to ``SOLVER.MAX_ITER``.

        With ``DATASETS.BOXES_TRAIN`` the images that have boxes are listed in ``box_images.json``.
        """
        if self.cfg.DATASETS.BOXES_TRAIN and comm.is_main_process():
            write_json(Path(self.cfg.OUTPUT_DIR) / BOX_IMAGES, describe_boxes(self.cfg))
        with deterministic_algorithms(self._deterministic):
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
            if self.teacher is not None:
                batch = self.teacher.add_targets(batch, self.iter, self._autocast)
            if self.adversarial is not None:
                batches.append(batch)
            with self._no_sync(step < steps - 1):
                losses = self._losses(batch)
                check_finite(losses, batch, self.iter, self._losses_alone)
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

    def _losses_alone(self, item: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Losses of one image of a batch, to find the one to blame."""
        with torch.no_grad():
            return self._losses([item])

    def _evaluate(self) -> dict[str, float]:
        """Evaluate without changing what training draws next."""
        with preserved_random_state():
            return flat_results(self.evaluate())

    def evaluate(self) -> dict[str, dict[str, Any]]:
        """Results of the model on ``DATASETS.TEST``, and of its teacher in rows of their own."""
        if self.teacher is None:
            return self.test(self.cfg, self.model)
        return self.test(self.cfg, self.model, self.teacher.model)

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

    @classmethod
    def test(
        cls, cfg: Any, model: nn.Module, teacher: nn.Module | None = None
    ) -> dict[str, dict[str, Any]]:
        """Run a model over each set of ``DATASETS.TEST``; results by data set, then task.

        A model that has seen boxes (``DATASETS.BOXES_TRAIN``) never stands in a row of weak ones:
        the names of its data sets end with, for example, ``(25% boxes)``. With
        ``TEST.AUG.ENABLED`` every image is seen in several views. The rows of ``teacher`` end
        with ``(EMA teacher)``, its detections lie in ``inference_ema``.
        """
        results = cls._test(cfg, model, "inference", "")
        if teacher is not None:
            results |= cls._test(cfg, teacher, "inference_ema", TEACHER_ROW)
        return results

    @staticmethod
    def _test(cfg: Any, model: nn.Module, parent: str, row: str) -> dict[str, dict[str, Any]]:
        model = with_test_views(cfg, model)
        label = f" ({describe_boxes(cfg)['label']})" if cfg.DATASETS.BOXES_TRAIN else ""
        label += row
        results = {}
        for name in cfg.DATASETS.TEST:
            folder = Path(cfg.OUTPUT_DIR) / parent / name
            evaluator = build_evaluator(cfg, name, str(folder))
            found = inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
            results[name + label] = found
            table = class_table(found or {})
            if table:
                logger.info("%s\n%s", name + label, table)
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
    losses: Mapping[str, torch.Tensor],
    batch: list[dict[str, Any]],
    iteration: int,
    losses_alone: Callable[[dict[str, Any]], Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Stop training at the first loss that is not finite.

    Args:
        losses: of the batch.
        batch: its images.
        iteration: for the message.
        losses_alone: losses of one image, to tell which of the batch are to blame; not used
            where the other ranks would have to take part.

    Raises:
        FloatingPointError: names the iteration, the losses and the ids of the images to blame, or
            of all images of the batch if none of them alone is.
    """
    bad = _not_finite(losses)
    if not bad:
        return
    blamed: list[dict[str, Any]] = []
    if losses_alone is not None and comm.get_world_size() == 1:
        blamed = [item for item in batch if _not_finite(losses_alone(item))]
    images = ", ".join(str(item.get("image_id", "?")) for item in blamed or batch)
    raise FloatingPointError(
        f"iteration {iteration}: {bad} on images {images}; lower SOLVER.BASE_LR, or look at "
        "these images, their labels and their proposals"
    )


def _not_finite(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {k: float(v.detach()) for k, v in losses.items() if not bool(torch.isfinite(v))}


def _autocast_dtype(cfg: Any) -> torch.dtype | None:
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}, expected {' or '.join(AMP_DTYPES)}")
    if name == "float16" and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError("SOLVER.AMP.DTYPE float16 needs CUDA; use bfloat16 on a CPU")
    return AMP_DTYPES[name]
