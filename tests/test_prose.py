"""What the README and the notebooks say is true of the code."""

import re
from pathlib import Path

import pytest

from transformer import axes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def alphabet_table() -> str:
    """The README's table, from the one in axes.py."""

    def cell(names: tuple[str, ...]) -> str:
        return ", ".join(names) or "–"

    lines = [
        "| letter | word | Turner | parameter over | activation over |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {letter} | {row.word} | {row.turner} | {cell(row.parameter)} | "
        f"{cell(row.activation)} |"
        for letter, row in axes.ALPHABET.items()
    ]
    return "\n".join(lines)


def test_readme_has_the_alphabet():
    assert alphabet_table() in README


def test_readme_has_the_two_commands():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert len(commands) == 2
    assert commands[0].endswith("-m experiments.language_model")
    assert commands[1].endswith("/pytest")


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_readme_links_to_what_exists(link):
    assert (ROOT / link).exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")))
def test_notebook_runs(notebook, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    book = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(book, timeout=240, resources=where).execute()
    printed = [
        output
        for cell in book.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert printed == []
