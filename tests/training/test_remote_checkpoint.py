"""Checkpoints in an object store: a step is there whole or not at all."""

import shutil

import fake_store
import pytest
from test_checkpoint import IDENTITY, assert_same, make_state, restore

from transformer import checks, storage
from transformer.training import checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two saved steps."""
    fake_store.install(tmp_path / "store", monkeypatch)
    place = checks.parse_path("gs://bucket/checkpoints")
    saved = checkpoint.open_(place, IDENTITY)
    for step in (1, 2):
        saved.save(make_state(step, mesh="fsdp 8"))
    saved.close()
    return place


def test_a_state_is_restored_on_another_mesh(folder):
    state, messages = restore(folder, make_state(0, mesh="2 x 2 x 2"))
    assert_same(state, make_state(2))
    assert messages == []


def test_what_a_killed_process_left_is_no_step_and_is_saved_again(folder):
    """Without its last file, which Orbax writes when all others are there."""
    (folder / "2" / checkpoint.COMMITTED).unlink()
    assert checkpoint.steps(folder) == [1]
    assert_same(restore(folder, make_state(0))[0], make_state(1))
    saved = checkpoint.open_(folder, IDENTITY)
    for step in (2, 3):
        saved.save(make_state(step))
    saved.close()
    assert checkpoint.steps(folder) == [1, 2, 3]
    state, messages = restore(folder, make_state(0))
    assert_same(state, make_state(3))
    assert messages == []


def test_a_corrupt_step_is_skipped_and_kept_for_inspection(folder):
    arrays = [p for p in storage.files(folder / "2" / "params") if p.parent.name == "d"]
    content = arrays[0].read_bytes()
    arrays[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    saved = checkpoint.open_(folder, IDENTITY)
    state, messages = restore(folder, make_state(0))
    assert_same(state, make_state(1))
    assert "gs://bucket/checkpoints/2 is corrupt, skipped" in messages[0]
    assert saved.restore(make_state(0)) is not None
    saved.save(make_state(2))
    saved.close()
    assert checkpoint.steps(folder) == [1, 2]
    assert (folder / "2.corrupt" / checkpoint.COMMITTED).exists()
    assert_same(restore(folder, make_state(0))[0], make_state(2))


def test_a_copy_on_disk_is_a_folder_of_checkpoints(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "store/bucket/checkpoints", copy)
    state, messages = restore(copy, make_state(0))
    assert_same(state, make_state(2))
    assert messages == []
