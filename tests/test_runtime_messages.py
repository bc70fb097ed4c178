"""Standard error of one of several processes, as another program writes it on."""

import os
import threading
import time

import pytest

from transformer import runtime_messages

NOTICE = (
    b"W1128 20:26:31.4 97 preemption_sync_manager.cc:147] Failed\n"
    b"E1128 20:26:31.5 97 coordination_service.cc:1549] Use error polling\n1\n"
)
ABORT = b"F1128 20:26:31.5 97 client.h:80] Terminating process\n*** Check failure\n"
GLOO = (
    b"terminate called after throwing an instance of 'gloo::EnforceNotMet'\n  what()\n"
)
ALONE = (
    b"\nRPC: /xla.coordination.CoordinationService/RegisterTask\n*** Check failure\n"
)
LINE = runtime_messages.PEER_LOST.encode()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"one\ntwo", b"one\ntwo"),
        (b"one\n" + NOTICE + ABORT + b"    @ 0x7f\n", b"one\n" + LINE),
        (ABORT[:60] + ALONE, runtime_messages.NOT_JOINED.encode()),
        (b"one\n" + GLOO, b"one\n" + LINE),
        (NOTICE + b"the process goes on\n", NOTICE + b"the process goes on\n"),
        (b"terminate called\nF1 other\n", b"terminate called\nF1 other\n"),
    ],
)
def test_an_abort_because_of_another_process_is_one_line(written, expected, tmp_path):
    reader, writer = os.pipe()
    os.write(writer, written)
    os.close(writer)
    target = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    runtime_messages.relay(reader, target)
    os.close(target)
    os.close(reader)
    assert (tmp_path / "out").read_bytes() == expected


def test_what_is_no_abort_is_written_while_the_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime_messages, "HOLD_SECONDS", 0.1)
    reader, writer = os.pipe()
    target = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    relay = threading.Thread(
        target=runtime_messages.relay, args=(reader, target), daemon=True
    )
    relay.start()
    os.write(writer, NOTICE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out").read_bytes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "out").read_bytes() == NOTICE
    os.close(writer)
    relay.join()
    os.close(target)
    os.close(reader)
