"""Compiling apart from running, because only the former may take long."""

from __future__ import annotations

from typing import Any

import jax

from transformer.training import faults


def program(function: Any, *arguments: Any) -> Any:
    """The jitted `function` compiled for `arguments`, which are left as they are.

    Among several processes all leave together, the slowest compiler last: the steps
    that follow have no excuse for being late.
    """
    faults.watch(compiling=True)
    ready = function.lower(*arguments).compile()
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("compiled")
    faults.watch()
    return ready
