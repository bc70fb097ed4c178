"""The exported program equals the net, for any number of rows and tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax.export
import numpy as np
import pytest
import safetensors.numpy

from transformer.interchange import folder, stablehlo
from transformer.models import decoder
from transformer.network import masks

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_program_is_called_with_the_tensors_of_the_file(name, tmp_path) -> None:
    path = tmp_path / name
    shutil.copytree(FIXTURES / name, path)
    opened = folder.open_folder(path)
    assert stablehlo.write(opened) < 1e-5
    forward = jax.export.deserialize(bytearray((path / stablehlo.FILE).read_bytes()))
    assert forward.platforms == stablehlo.PLATFORMS
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    for rows, length in [(1, 1), (3, 9)]:
        ids_BL = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
        inputs = {"params": opened.read_params()}, ids_BL
        readout = opened.net.apply(*inputs, masks.single_document(length))
        np.testing.assert_allclose(
            forward.call(tensors, ids_BL), decoder.logits(readout), atol=1e-5
        )


def test_a_scanned_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an unrolled stack"):
        stablehlo.lower(folder.open_folder(FIXTURES / "llama", scanned=True))
