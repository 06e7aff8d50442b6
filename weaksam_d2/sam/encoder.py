"""The switches of an image encoder: autocast, memory format, compilation."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["DTYPES", "EncoderSwitches"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Result = TypeVar("Result")


class EncoderSwitches:
    """Set up an image encoder, in place, and run it as its switches say.

    Args:
        encoder: the module, on its final device; memory format and compilation are set on it.
        dtype: ``float32``, or autocast to ``bfloat16`` or (CUDA only) ``float16``.
        channels_last: memory format of the convolutions; the result is equal up to rounding.
        compile: ``torch.compile`` the module; the result is equal up to rounding.

    Raises:
        ValueError: unknown dtype, or float16 on a device without fast float16.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dtype: str = "float32",
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"SAM.DTYPE must be one of {sorted(DTYPES)}, got '{dtype}'")
        self._device = next(encoder.parameters()).device.type
        if dtype == "float16" and self._device == "cpu":
            raise ValueError(
                "SAM.DTYPE 'float16' needs a GPU, and the model is on the CPU, where it is slower "
                "than float32 by orders of magnitude; use 'bfloat16' or 'float32'"
            )
        self._dtype = DTYPES[dtype]
        self._compiled = compile
        layout = torch.channels_last if channels_last else torch.contiguous_format
        module: Any = encoder  # torch's annotations lack this overload
        module.to(memory_format=layout)
        if compile:
            encoder.compile()

    def run(self, function: Callable[[Tensor], Result], pixels: Tensor) -> Result:
        """Return ``function(pixels)``, which calls the encoder, under autocast if it is on.

        Raises:
            RuntimeError: compilation was asked for and failed.
        """
        reduced = self._dtype != torch.float32
        dtype = self._dtype if reduced else torch.bfloat16  # autocast wants one though it is off
        try:
            with torch.autocast(self._device, dtype, enabled=reduced):
                return function(pixels)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not self._compiled:
                raise
            reason = str(error).strip().splitlines()[0]
            raise RuntimeError(
                f"SAM.COMPILE True: torch.compile failed on device '{self._device}' ({reason}). "
                "It needs a C++ compiler (CPU) or Triton (CUDA): install g++, name it in CXX, or "
                "set WEAKSAM.SAM.COMPILE False"
            ) from error
