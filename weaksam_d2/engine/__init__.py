"""Trainer, command line, stages and pipeline: what runs the method (and holds no formula)."""

__all__: list[str] = []
