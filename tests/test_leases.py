"""The lock of a run folder in an object store."""

import json
import threading
import time

import fake_store
import pytest

from transformer import checks, leases


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of an empty store, of leases that beat fast."""
    fake_store.install(tmp_path, monkeypatch)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(leases, "DEAD_SECONDS", 0.5)
    return checks.parse_path("gs://bucket/run/lock")


def abandon(folder, **changes):
    """What a process that was killed leaves."""
    content = json.loads(leases._content(3)) | changes
    (folder / "000001.json").write_bytes(json.dumps(content).encode())


def test_a_lease_whose_holder_lives_is_refused(folder):
    with leases.hold(folder, "run"):
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"^run: expected no other .* got process"):
            with leases.hold(folder, "run"):
                pass
        assert time.monotonic() - began < 0.4


def test_a_released_lease_is_taken_at_once(folder, capsys):
    for number in (1, 2, 3):
        with leases.hold(folder, "run"):
            assert [p.name for p in folder.iterdir()] == [f"{number:06}.json"]
    assert capsys.readouterr().out == ""


def test_a_lease_of_a_dead_machine_is_taken_after_a_wait(folder, capsys):
    abandon(folder, machine="another")
    began = time.monotonic()
    with leases.hold(folder, "run"):
        assert time.monotonic() - began > 0.5
    assert "waiting up to 0 s for a sign of life" in capsys.readouterr().out


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_at_once(folder, capsys):
    abandon(folder, pid=2**22 + 1)
    with leases.hold(folder, "run"):
        assert capsys.readouterr().out == ""


def test_a_damaged_lease_is_waited_for(folder, capsys):
    (folder / "000001.json").write_bytes(b"\0")
    with leases.hold(folder, "run"):
        assert "in use by an unknown one" in capsys.readouterr().out


def test_of_many_at_once_one_holds(folder):
    """After a holder that died, which all of them see."""
    abandon(folder, pid=2**22 + 1)
    holding, most, got = [], [], []

    def take():
        try:
            with leases.hold(folder, "run"):
                holding.append(1)
                most.append(len(holding))
                time.sleep(0.2)
                holding.pop()
        except ValueError as error:
            got.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1 and len(most) + len(got) == 6 and got


def test_a_holder_that_lost_its_lease_is_told(folder):
    """As after an hour in which its host was suspended."""
    lost = threading.Event()
    lines = []
    with leases.hold(
        folder, "run", on_loss=lambda line: (lines.append(line), lost.set())
    ):
        (folder / "000002.json").write_bytes(leases._content(0))
        assert lost.wait(5)
    assert "run: another process took it: process" in lines[0]
    assert not json.loads((folder / "000002.json").read_bytes())["released"]


def test_a_lease_survives_requests_that_fail(folder, monkeypatch, capsys):
    with leases.hold(folder, "run"):
        with monkeypatch.context() as patch:

            def fail(*args, **options):
                raise OSError("unavailable")

            patch.setattr(fake_store.FakeStore, "pipe_file", fail)
            time.sleep(0.1)
        before = (folder / "000001.json").read_bytes()
        time.sleep(0.1)
        assert (folder / "000001.json").read_bytes() != before
    assert "the lock was not renewed" in capsys.readouterr().out
