"""Options of the compiler: for TPUs alone, and only those that it knows."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from transformer import axes
from transformer.training import compiler_options


@dataclasses.dataclass(frozen=True)
class FakeTpu:
    id: int
    platform: str = "tpu"


def tpu_mesh(number: int):
    return SimpleNamespace(devices=np.array([[FakeTpu(number)]]))


def test_other_platforms_have_none():
    assert compiler_options.for_mesh(axes.make_mesh()) == {}


@pytest.mark.parametrize("missing", [0, 1])
def test_what_the_compiler_does_not_know_is_left_out_and_told(
    missing, monkeypatch, capsys
):
    unknown = list(compiler_options.TPU)[:missing]
    monkeypatch.setattr(
        compiler_options, "_compiles", lambda device, name: name not in unknown
    )
    got = compiler_options.for_mesh(tpu_mesh(missing))
    assert got == {
        name: value
        for name, value in compiler_options.TPU.items()
        if name not in unknown
    }
    assert ("does not know" in capsys.readouterr().out) == bool(missing)
