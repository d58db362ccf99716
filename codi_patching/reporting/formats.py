"""How numbers are written, in every sentence, table, figure and page."""

from __future__ import annotations

import math
from collections.abc import Sequence


def short(value: float | None) -> str:
    """Two digits that tell something; a dash for what is undefined.

    Example:
        >>> [short(v) for v in (0.394, 12.3, -0.0066, 1e-13, 0.0, 0.098, math.nan)]
        ['0.39', '12', '-0.0066', '1e-13', '0', '0.10', '–']
    """
    if value is None or math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 9.95:
        return f"{value:.0f}"
    return f"{value:.2f}" if size >= 0.095 else f"{value:.2g}"


def with_interval(mean: float, low: float, high: float) -> str:
    """A number with its interval, where it has one.

    Example:
        >>> with_interval(0.47, 0.22, 0.72), with_interval(1.0, math.nan, math.nan)
        ('0.47 [0.22, 0.72]', '1.00')
    """
    if math.isnan(low) or math.isnan(high):
        return short(mean)
    return f"{short(mean)} [{short(low)}, {short(high)}]"


def p_value(p: float) -> str:
    """A p with the digits that it has; a dash where nothing was tested.

    Example:
        >>> p_value(0.0001), p_value(0.0234), p_value(0.4)
        ('0.0001', '0.023', '0.40')
    """
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return f"{p:.4f}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """`a, b and c`; long lists are cut, and the rest counted.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"]), listed(list("abcd"), 2)
        ('a, b and c', 'a', 'a, b and 2 more')
    """
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive whole numbers.

    Example:
        >>> runs_of([0, 1, 2, 5, 7, 8])
        [(0, 2), (5, 5), (7, 8)]
    """
    found: list[tuple[int, int]] = []
    for value in sorted(set(numbers)):
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def layers_named(names: Sequence[str]) -> str:
    """Layers with runs joined: `layer 3`, `layers 0 to 6 and 9`, `the thoughts themselves`.

    Example:
        >>> layers_named(["0", "1", "2", "5"]), layers_named(["thought", "0"])
        ('layers 0 to 2 and 5', 'the thoughts themselves and layer 0')
    """
    numbers = [int(name) for name in names if name.isdigit()]
    parts: list[str] = []
    for first, last in runs_of(numbers):
        parts += [f"{first} to {last}"] if last > first + 1 else map(str, range(first, last + 1))
    said = ["the thoughts themselves"] if "thought" in names else []
    if numbers:
        said.append(f"layer{'s' if len(numbers) > 1 else ''} {listed(parts)}")
    return " and ".join(said)
