"""Small drawings inside a page, as SVG that takes its colours from the page."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.collection.manifest import Manifest

BINS, SLOTS = 40, 80
WIDTH, HEIGHT = 320, 72


def histogram(values: NDArray[np.float64], label: str) -> str:
    """How values are distributed; "" for none. NaN is left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))
    bars = _bars(counts / counts.max())
    ends = f'<text x="0" y="{HEIGHT + 14}">{number(low)}</text>' + (
        f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{number(high)}</text>' if high > low else ""
    )
    spoken = f"{label}: {len(values):,} pairs from {number(low)} to {number(high)}"
    return _svg(f'<path d="{bars}"/>{ends}', spoken)


def throughput(manifests: Sequence[Manifest]) -> str:
    """Images a second over the time of a run, from first to last; "" where its manifests don't know."""
    rates, seconds = rates_over_time(manifests)
    if not len(rates) or not rates.max():
        return ""
    peak = float(rates.max())
    drawn = f'<path d="{_bars(rates / peak)}"/>'
    ends = f'<text x="0" y="{HEIGHT + 14}">0</text>'
    ends += f'<text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{_duration(seconds)}</text>'
    ends += f'<text x="0" y="10">{number(peak)} images a second</text>'
    return _svg(drawn + ends, f"At most {number(peak)} images a second, over {_duration(seconds)}")


def rates_over_time(manifests: Sequence[Manifest]) -> tuple[NDArray[np.float64], float]:
    """Images a second in equal slots of time, and how many seconds all of them last. A partition's images are spread
    evenly over its own time."""
    known = [m for m in manifests if m.finished > m.started]
    if not known:
        return np.zeros(0), 0.0
    start, stop = min(m.started for m in known), max(m.finished for m in known)
    edges = np.linspace(start, stop, min(SLOTS, 4 * len(known)) + 1)
    images = np.zeros(len(edges) - 1)
    for manifest in known:
        inside = np.minimum(edges[1:], manifest.finished) - np.maximum(edges[:-1], manifest.started)
        images += manifest.images * inside.clip(0) / (manifest.finished - manifest.started)
    return images / (edges[1] - edges[0]), stop - start


def number(value: float) -> str:
    """A number in at most four figures."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _bars(heights: NDArray[np.float64]) -> str:
    wide = WIDTH / len(heights)
    return "".join(
        f"M{i * wide:.1f} {HEIGHT}v{-max(1.0, h * (HEIGHT - 16)):.1f}h{max(1.0, wide - 1):.1f}V{HEIGHT}z"
        for i, h in enumerate(heights)
        if h > 0
    )


def _svg(inside: str, spoken: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT + 18}" role="img" aria-label="{spoken}">{inside}</svg>'


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
