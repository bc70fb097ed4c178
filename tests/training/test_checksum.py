"""Fingerprints notice what Orbax does not."""

from __future__ import annotations

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import IDENTITY, assert_same, files, flipped, put, restored

from transformer import axes
from transformer.training import checkpoint, checkpoint_files
from transformer.training.checksum import checksums
from transformer.training.update import State


def large(step: int) -> State:
    """One array of 64 KB, which Orbax stores as bytes without a check of its own."""
    params = {"w_DF": jax.random.normal(jax.random.key(step), (128, 128))}
    state = State(jnp.int32(step), params, (), jnp.zeros(2, jnp.uint32))
    return jax.device_put(state, axes.placement(axes.mesh(), state))


# Where Orbax fails to decode one array it forgets the coroutines that read others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_fingerprints_alone_let_no_wrong_array_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "_broken_file", lambda folder: None)
    saved, told = checkpoint.open_(tmp_path, IDENTITY), []
    for step in (1, 2):
        saved.save(large(step))
    saved.close()
    for path in [p for p in files(tmp_path / "2") if p.stat().st_size > 30_000]:
        content = path.read_bytes()
        for at in range(1, 10):
            put(path, flipped(at / 10, at % 8)(content))
            state, messages = restored(tmp_path, large(0))
            assert_same(state, large(int(state.step)))
            told += messages
        put(path, content[:1000])
        told += restored(tmp_path, large(0))[1]
        put(path, content)
    assert "params/w_DF: its values are not those that were saved" in str(told), told
    gc.collect()


def test_fingerprint_sees_every_bit_and_every_place() -> None:
    tree = {"a_D": jnp.arange(6.0), "b": jnp.zeros((), jnp.int8)}
    numbers = [checksums(tree)]
    for at in range(6):
        for bit in range(32):
            bits = np.arange(6, dtype=np.float32).view(np.uint32)
            bits[at] ^= np.uint32(1) << np.uint32(bit)
            numbers.append(checksums({**tree, "a_D": bits.view(np.float32)}))
    swapped = jnp.asarray([1.0, 0.0, 2.0, 3.0, 4.0, 5.0])
    numbers.append(checksums({**tree, "a_D": swapped}))
    assert len({number["a_D"] for number in numbers}) == len(numbers)
    square = jnp.arange(9.0).reshape(3, 3)
    assert checksums({"w_DF": square}) != checksums({"w_DF": square.T})
    assert len({number["b"] for number in numbers}) == 1
