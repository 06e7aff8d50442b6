"""Value noise, box blur and soft steps: numpy only, without BLAS, so equal on every run."""

import numpy as np

__all__ = ["blur", "fractal_noise", "soft_step", "value_noise"]


def _axis(size: int, cells: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    position = np.linspace(0.0, cells, size, dtype=np.float32) + np.float32(shift)
    low = np.floor(position).astype(np.int64)
    t = position - low
    return low, t * t * (3.0 - 2.0 * t)


def value_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float]
) -> np.ndarray:
    """Return smooth noise in [0, 1], float32 (H, W), with that many lattice cells per axis."""
    rows, row_t = _axis(shape[0], cells[0], float(rng.random()))
    columns, column_t = _axis(shape[1], cells[1], float(rng.random()))
    lattice = rng.random((int(rows[-1]) + 2, int(columns[-1]) + 2)).astype(np.float32)
    row_t = row_t[:, None]
    stretched = lattice[rows] * (1.0 - row_t) + lattice[rows + 1] * row_t
    return stretched[:, columns] * (1.0 - column_t) + stretched[:, columns + 1] * column_t


def fractal_noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: tuple[float, float],
    octaves: int,
    gain: float = 0.5,
) -> np.ndarray:
    """Return the weighted mean of ``octaves`` noises, each twice as fine, float32 in [0, 1]."""
    total = np.zeros(shape, dtype=np.float32)
    weight, weights = 1.0, 0.0
    for octave in range(octaves):
        scale = 2.0**octave
        total += np.float32(weight) * value_noise(rng, shape, (cells[0] * scale, cells[1] * scale))
        weights += weight
        weight *= gain
    return total / np.float32(weights)


def soft_step(value: np.ndarray, sharpness: float) -> np.ndarray:
    """Return 0 … 1 around ``value`` = 0: a step of width 1 / sharpness, for smooth edges."""
    return np.clip(value * np.float32(sharpness) + np.float32(0.5), 0.0, 1.0)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur the first two axes with a Gaussian of ``sigma`` pixels, borders repeated."""
    radius = int(np.ceil(2.5 * sigma))
    if radius == 0:
        return image
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padding = [(0, 0)] * image.ndim
        padding[axis] = (radius, radius)
        padded = np.moveaxis(np.pad(image, padding, mode="edge"), axis, 0)
        size = image.shape[axis]
        total = kernel[0] * padded[:size]
        for k in range(1, len(kernel)):
            total += kernel[k] * padded[k : k + size]
        image = np.moveaxis(total, 0, axis)
    return np.ascontiguousarray(image, dtype=np.float32)
