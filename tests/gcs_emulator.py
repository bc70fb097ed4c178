"""The emulator of Cloud Storage of PyPI, in a thread: gcsfs and TensorStore reach it by
HTTP. It ignores preconditions, and is given the generations that it does not send."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

BUCKET = "bucket"
LIBRARIES = ("gcp_storage_emulator", "gcsfs")


def _send_generations() -> None:
    """Let downloads have the header of the object's generation, as Cloud Storage's do:
    TensorStore, which writes a manifest for the second time on that condition, refuses
    a download without. Before the server is imported, whose routes have the function.
    """
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    plain = objects.download
    if plain.__module__ == __name__:
        return

    def download(request: Any, response: Any, storage: Any, *rest: Any, **more: Any):
        place = request.params["bucket_name"], request.params["object_id"]
        with suppress(NotFound):
            found = storage.get_file_obj(*place)
            response["x-goog-generation"] = found["generation"]
        return plain(request, response, storage, *rest, **more)

    objects.download = download


@contextmanager
def serve() -> Iterator[dict[str, str]]:
    """Serve an empty bucket; the environment by which libraries find it, which they
    read when they are imported. Skips where the emulator or gcsfs is not installed."""
    missing = [name for name in LIBRARIES if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"pip install -e '.[gcs]' gcp-storage-emulator: no {missing[0]}")
    _send_generations()
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
