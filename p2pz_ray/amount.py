"""Amounts in words."""


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
