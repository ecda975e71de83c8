"""Numbers as a reader wants them."""

import math
from typing import TypeGuard


def known(value: object) -> TypeGuard[float]:
    """A number, neither null nor infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def digits(value: float | None, count: int = 4) -> str:
    """So many digits, and no exponent where one can do without: 0.3196, 12.50, 1,234; - for null."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{max(0, count - 1 - math.floor(math.log10(abs(value))))}f}"


def plus_minus(value: float, error: float) -> str:
    """As many digits as the error has two of: 9.13 ± 0.82."""
    places = 1 - math.floor(math.log10(error)) if error > 0 else 2
    if not 0 <= places <= 6:
        return f"{value:.4g} ± {error:.2g}"
    return f"{value:.{places}f} ± {error:.{places}f}"


def clock(seconds: float) -> str:
    """42 s, 8.5 s."""
    return f"{seconds:.1f}".removesuffix(".0") + " s"
