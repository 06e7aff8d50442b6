"""Textures: a tone in [0, 1] for each pixel, in the frame of a body, a head or the image."""

from collections.abc import Callable

import numpy as np

from weaksam_d2.data.datasets.scenes.noise import fractal_noise, soft_step, value_noise

__all__ = ["BACKGROUNDS", "BODY_TEXTURES", "HEAD_TEXTURES"]

Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]
Background = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
_TURN = np.float32(2 * np.pi)


def _planks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    row = np.floor(y * 7.0)
    seam = np.minimum((y * 7.0) % 1.0, (x * 2.2 + row * 0.37) % 1.0 * 3.0)
    tint = 0.12 * np.sin(row * 12.9)  # each row its own shade
    return 0.65 + tint - 0.4 * soft_step(0.14 - seam, 8.0)


def _scales(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    row = np.floor(y * 6.0)
    u = (x * 6.0 + 0.5 * (row % 2.0)) % 1.0 - 0.5
    v = (y * 6.0) % 1.0 - 0.5
    return 0.9 - 0.7 * np.hypot(u, v)


def _wings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    split = soft_step(0.025 - np.abs(y), 40.0)
    ribs = 0.12 * np.cos(_TURN * 3.5 * np.abs(y) / (0.6 + 0.4 * np.cos(x)))
    gloss = 0.25 * np.exp(-((x + 0.1) ** 2) * 4.0 - ((np.abs(y) - 0.2) ** 2) * 60.0)
    return 0.6 + ribs + gloss - 0.5 * split


def _rings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return soft_step(np.cos(_TURN * 1.5 * np.hypot(x, y)), 2.5)


def _stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return soft_step(np.sin(_TURN * 1.6 * (x + 0.2 * y)), 2.5)


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    row = np.floor(y / 0.56 + 0.5)
    u = ((x + 0.28 * (row % 2.0)) / 0.56 + 0.5) % 1.0 - 0.5
    v = (y / 0.56 + 0.5) % 1.0 - 0.5
    return soft_step(0.27 - np.hypot(u, v), 7.0)


def _checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return soft_step(np.sin(_TURN * 1.1 * x) * np.sin(_TURN * 1.1 * y), 4.0)


def _rays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # In step with the eight spikes of the outline: light spikes, dark between, a light core.
    rays = soft_step(np.cos(8.0 * np.arctan2(y, x)), 1.5)
    return np.maximum(rays, soft_step(0.3 - np.hypot(x, y), 8.0))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return soft_step(0.24 - np.minimum(np.abs(x), np.abs(y)), 8.0)


def _ripples(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Water or sky: noise stretched sideways."""
    return fractal_noise(rng, shape, (rng.uniform(7, 12), rng.uniform(1.5, 3)), 3, 0.65)


def _pebbles(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Ground or leaves: ridges of fine noise."""
    cells = rng.uniform(7, 11)
    ridges = 1.0 - 2.0 * np.abs(fractal_noise(rng, shape, (cells, cells), 3, 0.6) - 0.5)
    return 0.7 * ridges**2 + 0.3 * value_noise(rng, shape, (3, 3))


def _dunes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Sand or wood: broad level lines of a smooth noise."""
    height = fractal_noise(rng, shape, (rng.uniform(2, 3), rng.uniform(2, 3)), 2, 0.4)
    fine = value_noise(rng, shape, (24, 24))
    return 0.4 + 0.25 * np.sin(_TURN * rng.uniform(3, 5) * height) + 0.25 * fine


BODY_TEXTURES: dict[str, Texture] = {"boat": _planks, "fish": _scales, "beetle": _wings}
HEAD_TEXTURES: dict[str, Texture] = {
    "ringed": _rings,
    "striped": _stripes,
    "dotted": _dots,
    "checkered": _checks,
    "spiked": _rays,
    "crossed": _cross,
}
BACKGROUNDS: tuple[Background, ...] = (_ripples, _pebbles, _dunes)
