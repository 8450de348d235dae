"""A fraction that somebody wrote otherwise: as a percentage, or with a decimal comma."""

import math


def number_in(text: str) -> float | None:
    """The finite number that a text is; None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def correction(text: str) -> str | None:
    """What to write for a text that is no fraction from 0 to 1; None where nobody can tell."""
    number = number_in(text.removesuffix("%").strip().replace(",", "."))
    if number is None or not 0 <= number <= 100:
        return None
    if text.endswith("%") or number > 1:
        return f"if this is {number:g} percent, write {number / 100:g}"
    return f"write a decimal point, {number:g}"
