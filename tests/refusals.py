"""A read that is refused, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def refused(read: Callable[[], Any], *parts: str) -> None:
    """`read` raises a ValueError of one line, which has all of `parts`."""
    with pytest.raises(ValueError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
