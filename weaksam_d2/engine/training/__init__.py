"""Training a model of any kind: the trainer, its optimizer, resuming, what is checked before."""

__all__: list[str] = []
