"""Files that grow, on disk and in an object store."""

import fake_store
import pytest

from transformer import checks, uploads


@pytest.fixture(params=["disk", "store"])
def folder(request, tmp_path, monkeypatch):
    fake_store.install(tmp_path / "store", monkeypatch)
    place = tmp_path / "a" if request.param == "disk" else "gs://bucket/a"
    return checks.parse_path(str(place))


def test_a_growing_file_has_what_was_synced(folder):
    for text in ("one\n", "two\n"):
        place = uploads.GrowingFile(folder / "lines.txt")
        with place.local.open("a") as file:
            file.write(text)
            file.flush()
            place.sync()
            assert place.path.read_text().endswith(text)
        place.close()
    assert (folder / "lines.txt").read_text() == "one\ntwo\n"
    assert place.local.exists() != place.is_remote


def test_an_output_folder_has_what_was_uploaded(folder):
    place = uploads.OutputFolder(folder)
    assert not place.local.exists()  # As writers of new folders ask.
    (place.local / "b").mkdir(parents=True)
    (place.local / "b" / "c.txt").write_text("one")
    place.upload()
    assert (folder / "b/c.txt").read_text() == "one"
