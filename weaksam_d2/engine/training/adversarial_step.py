"""The second optimizer step of Concrete DropBlock: what is hidden learns to be missed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn
from torch.utils.hooks import RemovableHandle

Batch = list[dict[str, Any]]


class AdversarialStep:
    """Updates the generator of dropped blocks so that the detector's loss rises.

    After the detector's own update, its loss is computed again for the same batches (with
    ``reuse_features`` from the feature maps of the first time), and the generator alone takes a
    step on minus ``loss_weight`` times it. The detector requires no gradient meanwhile, so the
    second pass costs a forward, and data-parallel training does not notice it: the generator's
    gradient is averaged over the ranks here.

    Source: MIST (Ren et al., 2020), Sec. 3.4; weaksam.md, Sec. 5.5 and 5.7.
    """

    def __init__(
        self,
        model: nn.Module,
        generator: nn.Module,
        *,
        base_lr: float = 1e-5,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (),
        gamma: float = 3.0,
        loss_weight: float = 0.01,
        reuse_features: bool = False,
        scale_gradients: bool = False,
    ) -> None:
        """Make the generator's optimizer (Adam) and its schedule.

        Args:
            model: the detector, not wrapped; gives its losses for a batch.
            generator: the part of it that this step trains.
            base_lr: learning rate, multiplied by ``gamma`` at each of ``milestones`` (iterations).
            weight_decay: coupled L2, as Adam does it.
            milestones: see ``base_lr``.
            gamma: see ``base_lr``.
            loss_weight: the generator's loss is minus this times the detector's.
            reuse_features: keep the first pass's feature maps, as they were before the update.
            scale_gradients: for float16 autocast on CUDA.
        """
        self.model = model
        self.generator = generator
        self.loss_weight = loss_weight
        self.optimizer = torch.optim.Adam(
            generator.parameters(), lr=base_lr, weight_decay=weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self.optimizer, list(milestones), gamma=gamma
        )
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=scale_gradients)
        self._inputs: list[tuple[Any, ...]] = []
        self._recorder = self._record_inputs() if reuse_features else None

    @classmethod
    def from_config(cls, cfg: Any, model: nn.Module) -> "AdversarialStep | None":
        """Read ``MODEL.WSOD.DROPBLOCK`` (and ``SOLVER.STEPS``); None for a model without it."""
        generator = getattr(getattr(model, "roi_heads", None), "drop_block", None)
        if generator is None:
            return None
        node = cfg.MODEL.WSOD.DROPBLOCK
        half = cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16"
        return cls(
            model,
            generator,
            base_lr=node.BASE_LR,
            weight_decay=node.WEIGHT_DECAY,
            milestones=node.STEPS or cfg.SOLVER.STEPS,
            gamma=node.GAMMA,
            loss_weight=node.LOSS_WEIGHT,
            reuse_features=node.REUSE_FEATURES,
            scale_gradients=half,
        )

    def step(
        self, batches: Sequence[Batch], autocast: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """Make one update from the batches of the detector's last update.

        Args:
            batches: one for each accumulated step.
            autocast: gives the context of the trainer's mixed precision.

        Raises:
            FloatingPointError: the second loss is not finite.
        """
        self.optimizer.zero_grad()
        passes = self._inputs if self._recorder is not None else batches
        with only_trainable(self.model, self.generator):
            for given in passes:
                with autocast():
                    losses = self._losses(given)
                total = torch.stack(list(losses.values())).sum()
                loss = -self.loss_weight * total / len(passes)
                if not bool(torch.isfinite(loss)):
                    bad = {name: value.item() for name, value in losses.items()}
                    raise FloatingPointError(
                        f"losses of DropBlock's second pass are {bad}; lower SOLVER.BASE_LR or "
                        "MODEL.WSOD.DROPBLOCK.BASE_LR"
                    )
                self.grad_scaler.scale(loss).backward()
        self._inputs.clear()
        self._average_over_ranks()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer, of its schedule and of the gradient scaler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.grad_scaler.load_state_dict(state["grad_scaler"])

    def _losses(self, given: Any) -> dict[str, torch.Tensor]:
        if self._recorder is None:
            losses: dict[str, torch.Tensor] = self.model(given)
            return losses
        assert isinstance(self.model.roi_heads, nn.Module)
        # Not the module's call: what it is given now must not be recorded again.
        losses = self.model.roi_heads.forward(*given)[1]
        return losses

    def _record_inputs(self) -> RemovableHandle:
        def record(heads: nn.Module, args: tuple[Any, ...]) -> None:
            if heads.training:
                images, features, *rest = args
                kept = {name: level.detach() for name, level in features.items()}
                self._inputs.append((images, kept, *rest))

        assert isinstance(self.model.roi_heads, nn.Module)
        return self.model.roi_heads.register_forward_pre_hook(record)

    def _average_over_ranks(self) -> None:
        if comm.get_world_size() == 1:
            return
        for parameter in self.generator.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= comm.get_world_size()


@contextmanager
def only_trainable(model: nn.Module, part: nn.Module) -> Iterator[None]:
    """Within the context only the parameters of ``part`` require a gradient."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        part.requires_grad_(True)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
