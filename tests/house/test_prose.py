"""What the README, the documentation and the notebooks say is true of the code."""

import re
from pathlib import Path

import pytest

from transformer import axes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "experiments").glob("*.md")),
]


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
    assert alphabet_table() in README, alphabet_table()


def test_readme_has_the_two_commands():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert len(commands) == 2
    assert commands[0].endswith("-m experiments.language_model")
    assert commands[1].endswith("/pytest")


def test_links_lead_to_existing_files():
    faults = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert not faults, "\n".join(faults)


def test_commands_name_existing_modules():
    """`python -m module` in README, CONTRIBUTING and docs; the log is history."""
    faults = [
        f"{page.relative_to(ROOT)}: {module}"
        for page in PAGES
        if page.name not in ("LOG.md", "CHANGELOG.md")
        for module in re.findall(
            r"-m ((?:experiments|benchmarks|transformer)[\w.]*\w)", page.read_text()
        )
        if not (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
        and "NAME" not in module
    ]
    assert not faults, "\n".join(faults)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(notebook, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    book = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(book, timeout=240, resources=resources).execute()
    errors = [
        output
        for cell in book.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert errors == []


def test_messages_of_the_page_on_pods_are_those_of_the_code():
    """Each row of the table begins with words that the code, the runtime of several
    processes or another tool prints."""
    page = (ROOT / "docs" / "pods.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|", page.partition("| message |")[2], re.M)
    files = *(ROOT / "transformer").rglob("*.py"), *(ROOT / "clusters").glob("*.sh")
    source = "".join(path.read_text() for path in files)
    # Literals on several lines are one.
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    others = "Timeout (", " process"
    fragments = [
        fragment
        for row in rows
        for message in re.findall(r"`([^`]*)`", row)
        for fragment in re.split(r"\.\.\.|\d+|--\w+=|\bnan\b|gs:|s3:", message)
        if len(fragment) > 8 and not fragment.startswith(others)
    ]
    assert len(fragments) > 15
    faults = [f for f in fragments if f.strip(" ,:;") not in source]
    assert not faults, "\n".join(faults)
