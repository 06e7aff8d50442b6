"""Trainer, command line, stages and pipeline: what runs the method (and holds no formula)."""

from weaksam_d2.engine.training.trainer import WeakSAMTrainer

__all__ = ["WeakSAMTrainer"]
