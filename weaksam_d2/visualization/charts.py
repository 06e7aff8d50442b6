"""Charts as inline SVG whose colors come from the page, so they follow light and dark mode."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "bar_chart", "line_chart"]

_WIDTH, _HEIGHT = 460, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 46
_COLORS = 6  # the page defines --series-1 ... --series-6
_DASHES = ("", "6 4", "2 3")


@dataclass(frozen=True)
class Series:
    """One named line of a chart; points whose value is not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def points(self) -> list[tuple[float, float]]:
        """Finite points in the given order."""
        if len(self.x) != len(self.y):
            raise ValueError(
                f"series {self.name!r} has {len(self.x)} x values and {len(self.y)} y values"
            )
        pairs = zip(self.x, self.y, strict=True)
        return [(float(x), float(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    markers: bool = False,
    log_x: bool = False,
) -> str:
    """Draw lines over common axes with a legend below; an empty string without any point.

    ``y_range`` fixes the vertical axis, ``markers`` dots every point, ``log_x`` spaces positive
    x values by their logarithm.
    """
    lines = [(one.name, one.points()) for one in series]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return ""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    if log_x and min(xs) <= 0:
        raise ValueError(f"a logarithmic axis needs positive x values, got {min(xs)}")
    low, high = y_range if y_range else _rounded_out(min(0.0, min(ys)), max(ys))
    y_ticks = _ticks(low, high)
    x_axis = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, log=log_x)
    y_axis = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP)
    x_ticks = _log_ticks(min(xs), max(xs)) if log_x else _ticks(min(xs), max(xs))
    parts = _frame(x_axis, y_axis, x_ticks, y_ticks, x_label, y_label)
    for number, (name, points) in enumerate(lines):
        parts.append(_line(name, points, number, x_axis, y_axis, markers))
    svg = _svg(parts, f"{y_label} over {x_label}", _HEIGHT)
    return f'<figure class="chart">{svg}{_legend([name for name, _ in lines])}</figure>'


def bar_chart(values: Mapping[str, float], *, unit: str = "") -> str:
    """Draw horizontal bars, one for each name, with the value written at its end.

    An empty string without values; values must be finite and not negative.
    """
    if not values:
        return ""
    bad = {name: value for name, value in values.items() if not 0 <= value < math.inf}
    if bad:
        raise ValueError(f"bars need finite values that are not negative, got {bad}")
    top = max(values.values()) or 1.0
    row, left = 30, 176
    parts = []
    for place, (name, value) in enumerate(values.items()):
        y = place * row + 4
        length = max(1.5, (_WIDTH - left - 90) * value / top)
        middle = y + row / 2 - 1
        parts.append(f'<text x="{left - 8}" y="{middle + 1}" class="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{left}" y="{y + 5}" width="{length:.1f}" height="{row - 12}" rx="3" '
            f'class="bar"><title>{escape(name)}: {_number(value)} {escape(unit)}</title></rect>'
        )
        text = f"{_number(value)} {unit}".strip()
        end = f"{left + length + 7:.1f}"
        parts.append(f'<text x="{end}" y="{middle + 1}" class="value">{escape(text)}</text>')
    svg = _svg(parts, "bars", len(values) * row + 8)
    return f'<figure class="chart">{svg}</figure>'


class _Axis:
    """Linear or logarithmic map from values to pixels of the drawing."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool = False):
        self._log = log
        self._low, self._high = (math.log(low), math.log(high)) if log else (low, high)
        if self._high == self._low:
            self._low, self._high = self._low - 0.5, self._high + 0.5
        self.start, self.stop = start, stop

    def __call__(self, value: float) -> float:
        value = math.log(value) if self._log else value
        share = (value - self._low) / (self._high - self._low)
        return self.start + share * (self.stop - self.start)


def _line(
    name: str,
    points: Sequence[tuple[float, float]],
    number: int,
    x_axis: _Axis,
    y_axis: _Axis,
    markers: bool,
) -> str:
    color = f"var(--series-{number % _COLORS + 1})"
    dash = _DASHES[(number // _COLORS) % len(_DASHES)]
    path = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in points)
    title = f"<title>{escape(name)}</title>"
    parts = [
        f'<polyline points="{path}" class="line" stroke="{color}" stroke-dasharray="{dash}">'
        f"{title}</polyline>"
    ]
    if markers or len(points) == 1:
        parts += [
            f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="4" fill="{color}" class="dot">'
            f"<title>{escape(name)}: {_number(y)} at {_number(x)}</title></circle>"
            for x, y in points
        ]
    return "".join(parts)


def _frame(
    x_axis: _Axis,
    y_axis: _Axis,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
) -> list[str]:
    """Grid lines, tick numbers and axis names."""
    bottom, parts = _HEIGHT - _BOTTOM, []
    for tick in y_ticks:
        y = y_axis(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y:.1f}" class="end">{_number(tick)}</text>')
    for tick in x_ticks:
        x = x_axis(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" class="mid">{_number(tick)}</text>')
    center = (_LEFT + _WIDTH - _RIGHT) / 2
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{center}" y="{_HEIGHT - 8}" class="mid name">{escape(x_label)}</text>')
    parts.append(
        f'<text x="13" y="{middle}" transform="rotate(-90 13 {middle})" class="mid name">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _svg(parts: Sequence[str], label: str, height: int) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<li><i style="background:var(--series-{number % _COLORS + 1})"></i>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values that lie in (or just around) the range."""
    if high <= low:
        return [low]
    step = _step(low, high, count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * place, 10) for place in range(first, last + 1)]


def _step(low: float, high: float, count: int) -> float:
    """Round distance of which about ``count`` fit into the range."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * base for base in (1, 2, 2.5, 5, 10) if power * base >= raw * 0.999)


def _rounded_out(low: float, high: float) -> tuple[float, float]:
    """The range, widened to the next round values."""
    if high <= low:
        return low, low + 1.0
    step = _step(low, high, 5)
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in the range, the ends where there is none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [base * 10.0**power for power in powers for base in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001] or [low, high]


def _number(value: float) -> str:
    """Short decimal text of a value."""
    if value and abs(value) >= 1e5:
        return f"{value / 1000:.0f}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
