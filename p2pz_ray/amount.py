"""Amounts in words."""

import math

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 partition, 2 partitions."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """Bytes as 12 kB, 3.4 MB, 5.6 GB."""
    amount, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:,.0f} {units[0]}" if units[0] in ("bytes", "kB") else f"{amount:,.1f} {units[0]}"


def number(value: float) -> str:
    """A number in three figures, or all of a large one's; a very small one as a multiple of a power of ten."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 0.0005:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits}×10{str(int(power)).translate(_RAISED)}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
