"""Checks of numbers that a user gives."""

from __future__ import annotations

from typing import Any


def at_least(name: str, value: Any, minimum: Any) -> Any:
    """`value`, or ValueError where it is less than `minimum`."""
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    return value
