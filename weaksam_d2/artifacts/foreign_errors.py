"""What readers of foreign files raise; nothing else may leave them, whatever a file holds."""

from typing import Any

from weaksam_d2.artifacts.io import ArtifactError

__all__ = ["ForeignFileError", "UnsafePickleError", "shown"]

_SHOWN = 80  # characters


class ForeignFileError(ArtifactError):
    """A file of another program is not what its format says; the message names it."""


class UnsafePickleError(ForeignFileError):
    """A pickle asks for more than plain data; nothing of it was run."""


def shown(value: Any) -> str:
    """A value of a file for a message: never more than a line, whatever the value is.

    The repr of a container of a few bytes can be endless, if it holds itself many times over.
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:_SHOWN])
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int) and abs(value) < 1 << 64:
        return repr(value)
    return f"a {type(value).__name__}"
