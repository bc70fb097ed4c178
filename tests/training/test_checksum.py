"""Checksums detect the corruption that Orbax does not."""

from __future__ import annotations

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import IDENTITY, assert_same, files, flip, put, restore

from transformer import axes
from transformer.training import checkpoint, checkpoint_files
from transformer.training.checksum import checksums
from transformer.training.update import State


def large_state(step: int) -> State:
    """One array of 64 KB, which Orbax stores as bytes without a checksum."""
    params = {"w_DF": jax.random.normal(jax.random.key(step), (128, 128))}
    state = State(jnp.int32(step), params, (), jnp.zeros(2, jnp.uint32))
    return jax.device_put(state, axes.shardings(axes.make_mesh(), state))


# Where Orbax fails to decode one array it does not await those that read others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checksums_alone_detect_every_wrong_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files, "_first_mismatch", lambda folder: None)
    saved, messages = checkpoint.open_(tmp_path, IDENTITY), []
    for step in (1, 2):
        saved.save(large_state(step))
    saved.close()
    for path in [p for p in files(tmp_path / "2") if p.stat().st_size > 30_000]:
        content = path.read_bytes()
        for at in range(1, 10):
            put(path, flip(at / 10, at % 8)(content))
            state, more = restore(tmp_path, large_state(0))
            assert_same(state, large_state(int(state.step)))
            messages += more
        put(path, content[:1000])
        messages += restore(tmp_path, large_state(0))[1]
        put(path, content)
    assert "params/w_DF: its values differ from those saved" in str(messages), messages
    gc.collect()


def test_checksum_depends_on_every_bit_and_position() -> None:
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
