"""A saved state is restored bit for bit; corrupt steps are skipped with a message."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer import axes, storage
from transformer.training import checkpoint, optimizers
from transformer.training.checksum import checksums
from transformer.training.update import State

IDENTITY = checkpoint.Identity("tiny", "MLP of width 32")
MESHES: dict[str, dict[str, int]] = {
    "data 8": {},
    "fsdp 8": {"data": 1, "fsdp": 8},
    "2 x 2 x 2": {"data": 2, "fsdp": 2, "tensor": 2},
    "tensor 8": {"data": 1, "tensor": 8},
}


def make_state(step: int, optimizer: Any = None, mesh: str = "2 x 2 x 2") -> State:
    """A state of several dtypes; its matrices differ between steps."""
    key = jax.random.key(step)
    params = {
        "mlp": {"w_up_DF": jax.random.normal(key, (32, 64)), "gain_D": jnp.ones(32)},
        "embedding_VD": jax.random.normal(key, (24, 32), jnp.bfloat16),
    }
    optimizer = optimizer or optimizers.adamw(9)
    state = State(
        step=jnp.int32(step),
        params=params,
        optimizer_state=optimizer.init(params),
        key=jax.random.key_data(jax.random.key(7)),
    )
    return jax.device_put(state, axes.shardings(axes.make_mesh(**MESHES[mesh]), state))


def abstract(state: State) -> State:
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def assert_same(got: State, expected: State) -> None:
    """Equal structure, and every leaf equal bit for bit."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def restore(folder: Path, target: State) -> tuple[State, list[str]]:
    found = checkpoint.open_(folder, IDENTITY).restore(abstract(target))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to which five steps were saved, of which three are kept."""
    folder = tmp_path_factory.mktemp("runs") / "checkpoints"
    saved = checkpoint.open_(folder, IDENTITY, keep=3)
    for step in range(1, 6):
        saved.save(make_state(step))
    saved.close()
    return folder


@pytest.fixture
def folder(saved_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_run, tmp_path / "checkpoints"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.1), optimizers.adamw(9), optimizers.muon(0.1, 0.1)],
    ids=["sgd", "adamw", "muon"],
)
def test_restored_state_is_the_saved_one(tmp_path: Path, optimizer: Any) -> None:
    saved = checkpoint.open_(tmp_path / "new", IDENTITY)
    assert saved.restore(abstract(make_state(0, optimizer))) is None
    assert not (tmp_path / "new").exists(), "restoring must create nothing"
    saved.save(make_state(1, optimizer))
    saved.close()
    state, messages = restore(tmp_path / "new", make_state(0, optimizer))
    assert_same(state, make_state(1, optimizer))
    assert messages == []


def test_donated_buffers_are_saved_with_their_old_values(tmp_path: Path) -> None:
    saved, state = checkpoint.open_(tmp_path, IDENTITY), make_state(1)
    overwrite = jax.jit(
        lambda s: jax.tree.map(lambda a: a + a.dtype.type(1), s), donate_argnums=0
    )
    saved.save(state)
    overwrite(state)
    saved.close()
    assert_same(restore(tmp_path, make_state(0))[0], make_state(1))


@pytest.mark.parametrize("mesh", MESHES)
def test_state_restored_on_another_mesh_is_the_same(saved_run: Path, mesh: str) -> None:
    target = make_state(0, mesh=mesh)
    state, _ = restore(saved_run, target)
    assert_same(state, make_state(5))
    assert checksums(state) == checksums(make_state(5))
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, state, target)
    assert jax.tree.all(same)


def test_newest_three_steps_are_kept_and_none_is_overwritten(folder: Path) -> None:
    saved = checkpoint.open_(folder, IDENTITY)
    assert saved.steps() == [3, 4, 5]
    before = commands.contents(folder)
    other = make_state(6)._replace(step=make_state(5).step)
    saved.save(other)
    saved.close()
    assert commands.contents(folder) == before


def test_params_are_restored_alone(saved_run: Path) -> None:
    expected = make_state(5)
    target = abstract(expected).params
    params = checkpoint.restore_params(saved_run, IDENTITY, target)
    assert checksums(params) == checksums(expected.params)
    empty = saved_run.parent / "empty"
    with pytest.raises(ValueError, match="expected an intact checkpoint, got none"):
        checkpoint.restore_params(empty, IDENTITY, target)


def test_a_newest_step_that_is_not_whole_is_told(saved_run: Path, capsys: Any) -> None:
    """By evaluate and generate, which read the one before."""
    copy = saved_run.parent / "newest"
    shutil.copytree(saved_run, copy)
    (copy / "9").mkdir()
    target = abstract(make_state(5)).params
    for read in (
        lambda: checkpoint.restore_params(copy, IDENTITY, target),
        lambda: checkpoint.load_params(copy),
    ):
        read()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: {copy / '9'} is corrupt: ")
        assert line.endswith("; step 5 is read")


def flip(byte: float, bit: int) -> Callable[[bytes], bytes]:
    def corrupt(content: bytes) -> bytes:
        at = int(byte * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return corrupt


CORRUPTIONS: dict[str, Callable[[bytes], bytes | None]] = {
    "first bit": flip(0.0, 0),
    "a bit in the middle": flip(0.5, 3),
    "last bit": flip(1.0, 7),
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "removed": lambda content: None,
}


def put(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_step_with_any_corrupt_file_is_skipped(folder: Path, corruption: str) -> None:
    newest, expected = folder / "5", make_state(4)
    assert len(files(newest)) > 20
    for path in files(newest):
        content = path.read_bytes()
        put(path, CORRUPTIONS[corruption](content))
        state, messages = restore(folder, expected)
        path.write_bytes(content)
        if path.name == "seal.json" and corruption == "removed":
            continue  # As after SIGKILL: the arrays are verified without it.
        assert int(state.step) == 4 and len(messages) == 1, path
        assert str(newest) in messages[0] and path.name in messages[0], messages
        assert_same(state, expected)
    assert_same(restore(folder, expected)[0], make_state(5))


def test_corrupt_step_is_renamed_and_saved_again(folder: Path) -> None:
    path = folder / "5" / "meta" / "metadata"
    path.write_bytes(flip(0.5, 1)(path.read_bytes()))
    saved = checkpoint.open_(folder, IDENTITY)
    found = saved.restore(abstract(make_state(0)))
    assert found is not None and int(found[0].step) == 4
    saved.save(make_state(5))
    saved.close()
    assert (folder / "5.corrupt" / "meta" / "metadata").exists()
    state, messages = restore(folder, make_state(0))
    assert_same(state, make_state(5))
    assert messages == []


def test_changed_metadata_is_corruption_not_another_run(folder: Path) -> None:
    newest = folder / "5"
    path = newest / "meta" / "metadata"
    path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"tinz"'))
    storage.write_digests(newest, "digests.json", files(newest / "params"))
    (newest / "seal.json").unlink()
    state, messages = restore(folder, make_state(0))
    assert int(state.step) == 4 and "meta/metadata" in messages[0]


def test_no_intact_step_is_an_error_that_names_each(folder: Path) -> None:
    for step in (3, 4, 5):
        (folder / str(step) / "params" / "_METADATA").unlink()
    with pytest.raises(ValueError, match="expected an intact step, got none") as caught:
        restore(folder, make_state(0))
    assert all(
        f"{folder / str(step)} is corrupt, skipped" in str(caught.value)
        for step in (3, 5)
    )


def test_the_best_of_a_run_without_an_evaluation_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="got best of a run without an evaluation"):
        checkpoint.choose(folder, "best")


def test_a_save_that_is_removed_while_it_is_written_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    saved = checkpoint.open_(tmp_path / "checkpoints", IDENTITY)
    saved.save(make_state(1))

    def remove_files() -> None:
        """The next wait for a save finds that its files are gone."""
        finish = saved._manager.wait_until_finished

        def fail() -> None:
            finish()
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        monkeypatch.setattr(saved._manager, "wait_until_finished", fail)

    remove_files()
    saved.save(make_state(2))
    assert "step 1 could not be saved: No such file" in capsys.readouterr().out
    assert 2 in saved.steps()
    saved.save(make_state(3))
    remove_files()
    with pytest.raises(OSError, match="step 3 could not be saved: No such file"):
        saved.close()


def test_uncommitted_step_is_ignored_and_removed(folder: Path) -> None:
    unfinished = folder / "7.orbax-checkpoint-tmp"
    shutil.copytree(folder / "5", unfinished)
    (unfinished / "digests.json").unlink()
    saved = checkpoint.open_(folder, IDENTITY)
    assert saved.steps() == [3, 4, 5]
    found = saved.restore(abstract(make_state(0)))
    assert found is not None and int(found[0].step) == 5 and found[1] == []
    saved.save(make_state(6))
    saved.close()
    assert not unfinished.exists()
    assert_same(restore(folder, make_state(0))[0], make_state(6))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (IDENTITY._replace(experiment="vast"), "experiment.*expected vast, got tiny"),
        (IDENTITY._replace(fingerprint="RNN"), "fingerprint.*expected RNN, got MLP"),
    ],
)
def test_folder_of_another_run_is_refused(
    folder: Path, other: checkpoint.Identity, message: str
) -> None:
    before = commands.contents(folder)
    with pytest.raises(ValueError, match=message):
        checkpoint.open_(folder, other)
    with pytest.raises(ValueError, match=message):
        checkpoint.restore_params(folder, other, abstract(make_state(0)).params)
    assert commands.contents(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(jnp.bfloat16), r"got float32\[32, 64\]"),
        (lambda a: a[:4], r"expected float32\[4, 64\], got float32\[32, 64\]"),
        (lambda a: {"more_D": a}, "expected no such leaf, got float32"),
    ],
    ids=["dtype", "shape", "name"],
)
def test_leaf_of_another_type_is_refused(
    folder: Path, change: Callable[[jax.Array], Any], message: str
) -> None:
    target = make_state(0)
    target.params["mlp"]["w_up_DF"] = change(target.params["mlp"]["w_up_DF"])
    before = commands.contents(folder)
    with pytest.raises(ValueError, match=f"params/mlp/w_up_DF: .*{message}"):
        restore(folder, target)
    assert commands.contents(folder) == before
