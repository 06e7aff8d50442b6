"""The whole road in one folder: order of the stages, figures, report."""

__all__: list[str] = []
