"""Checks of numbers that a user gives."""

from __future__ import annotations

from typing import Any


def at_least(name: str, value: Any, least: Any) -> Any:
    """`value`, or ValueError where it is less than `least`."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return value
