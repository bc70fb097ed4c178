"""The emulator of Cloud Storage of PyPI, in a thread: gcsfs and TensorStore reach it by
HTTP. It ignores preconditions."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "bucket"
LIBRARIES = ("gcp_storage_emulator", "gcsfs")


@contextmanager
def serve() -> Iterator[dict[str, str]]:
    """Serve an empty bucket; the environment by which libraries find it, which they
    read when they are imported. Skips where the emulator or gcsfs is not installed."""
    missing = [name for name in LIBRARIES if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"pip install -e '.[gcs]' gcp-storage-emulator: no {missing[0]}")
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, True, BUCKET)
    server.start()
    # Clients that hang up are no news.
    server._api._httpd.handle_error = lambda request, address: None
    url = f"http://127.0.0.1:{port}"
    try:
        yield {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.stop()
