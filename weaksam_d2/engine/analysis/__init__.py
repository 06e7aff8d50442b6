"""What artifacts and trainings look like: pictures, tables, curves."""

__all__: list[str] = []
