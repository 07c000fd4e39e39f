"""Small charts as inline SVG, in the page's colours. Their labels are text of the page, whose size does not scale with
the chart."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.amount import number
from p2pz_ray.commit.manifest import Manifest

MOST_BINS, SLOTS = 40, 80
WIDTH, HEIGHT = 320, 72


def bars(places: NDArray[np.float64], many: NDArray[np.float64], ends: tuple[float, float], label: str) -> str:
    """A histogram of counts: `many` values at each of `places`, between the two ends."""
    low, high = map(float, ends)
    count = int(many.sum())
    bins = min(MOST_BINS, math.ceil(2 * count ** (1 / 3)))  # Rice's rule
    span = (low, high) if high > low else (low - 0.5, low + 0.5)
    counts, _ = np.histogram(places.clip(low, high), bins, span, weights=many)
    spoken = f"{label}: {count:,} pairs from {number(low)} to {number(high)}"
    return _svg(counts / counts.max(), spoken, number(low), number(high) if high > low else "")


def throughput(manifests: Sequence[Manifest]) -> str:
    """A chart of images per second over the time of a run; for one partition a sentence; "" if the manifests have no
    times."""
    rates, seconds = rates_over_time(manifests)
    if not len(rates) or not rates.max():
        return ""
    if len(manifests) == 1:
        images = manifests[0].images
        return f"<p>{images:,} images in {_duration(seconds)}: {number(images / seconds)} images per second.</p>"
    peak = float(rates.max())
    most = f"At most {number(peak)} images per second"
    drawn = _svg(rates / peak, f"{most}, over {_duration(seconds)}", "0", _duration(seconds))
    return f'<figure class="wide"><figcaption>{most}</figcaption>{drawn}</figure>'


def rates_over_time(manifests: Sequence[Manifest]) -> tuple[NDArray[np.float64], float]:
    """Images per second in equal slots of time, and the length of all slots in seconds. A partition's images are spread
    evenly over the time it took."""
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


def _bars(heights: NDArray[np.float64]) -> str:
    wide = WIDTH / len(heights)
    return "".join(
        f"M{i * wide:.1f} {HEIGHT}v{-max(1.0, h * HEIGHT):.1f}h{max(1.0, wide - 1):.1f}V{HEIGHT}z"
        for i, h in enumerate(heights)
        if h > 0
    )


def _svg(heights: NDArray[np.float64], spoken: str, left: str, right: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{spoken}"><path d="{_bars(heights)}"/></svg>'
        f'<p class="ends" aria-hidden="true"><span>{left}</span><span>{right}</span></p>'
    )


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
