"""The house style that a machine can check: shapes in names, lengths of files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformer.axes import ALPHABET, dimensions

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "transformer").rglob("*.py"))
EVERY = [
    path
    for room in ("transformer", "experiments", "benchmarks", "tests")
    for path in sorted((ROOT / room).rglob("*.py"))
]
EINSUMS = {"einsum", "product", "contract", "linear", "_linear", "_wide"}

every_file = pytest.mark.parametrize(
    "path", EVERY, ids=lambda p: str(p.relative_to(ROOT))
)


def name_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def einsums(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, letters, name) for each einsum's operands, and for its result where that
    is given a name at once."""
    results = {
        id(node.value): name_of(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and name_of(node.func) in EINSUMS):
            continue
        if not isinstance(node.args[0], ast.Constant):
            continue
        letters_in, letters_out = node.args[0].value.split("->")
        operands = [name_of(operand) for operand in node.args[1:]]
        assert len(operands) == len(letters_in.split(",")), ast.unparse(node)
        for letters, name in zip(letters_in.split(","), operands, strict=True):
            if name is not None:
                yield node.lineno, letters, name
        if results.get(id(node)):
            yield node.lineno, letters_out, results[id(node)] or ""


def mismatches(text: str) -> list[str]:
    """Where a name says other dimensions than the einsum; letters not in the table. A
    name without a suffix may stand for any array in a few lines of pure algebra."""
    found = []
    for line, letters, name in einsums(ast.parse(text)):
        if not set(letters) <= set(ALPHABET):
            found.append(f"line {line}: {letters} is not in the alphabet")
        if dimensions(name) not in ("", letters):
            found.append(f"line {line}: {name} stands for {letters}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_einsum_letters_equal_name_suffixes(path: Path) -> None:
    assert mismatches(path.read_text()) == []


def test_a_wrong_suffix_is_noticed() -> None:
    good = 'y_BLF = jnp.einsum("BLD,DF->BLF", x_BLD, self.w_in_DF)'
    assert mismatches(good) == []
    assert mismatches(good.replace("w_in_DF", "w_in_FD")) == [
        "line 1: w_in_FD stands for DF"
    ]
    assert mismatches(good.replace("y_BLF", "y_BLD")) == [
        "line 1: y_BLD stands for BLF"
    ]
    assert len(mismatches(good.replace("D", "Q"))) == 2


def test_einsums_are_found() -> None:
    found = [e for path in SOURCES for e in einsums(ast.parse(path.read_text()))]
    assert len(found) > 30


def parameters(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(attribute, name in the tree) of every `self.x = self.param("x", ...)`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if name_of(node.value.func) in ("param", "offset"):
            for said in node.value.args:
                if isinstance(said, ast.Constant) and isinstance(said.value, str):
                    yield name_of(node.targets[0]) or "", said.value


def test_parameters_bear_their_dimensions_and_one_name() -> None:
    found = [p for path in SOURCES for p in parameters(ast.parse(path.read_text()))]
    assert len(found) > 15
    for attribute, name in found:
        assert attribute == name and dimensions(name), (attribute, name)


@every_file
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300, f"{text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body[ast.get_docstring(node) is not None :]
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        # An experiment's one function is its whole configuration.
        most = 90 if node.name == "experiment" else 60
        assert lines <= most, f"{node.name} has {lines} lines below its signature"


@every_file
def test_public_names_are_documented(path: Path) -> None:
    """In the library; a test's name is its docstring."""
    if "transformer" not in path.relative_to(ROOT).parts or path.name == "__init__.py":
        return
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_readme_prints_the_alphabet() -> None:
    """One table, repeated in the README: letter, word, Turner's symbol."""
    readme = (ROOT / "README.md").read_text()
    for letter, meaning in ALPHABET.items():
        cells = (f"`?{letter}`?", re.escape(meaning.word), re.escape(meaning.turner))
        row = r"\|\s*" + r"\s*\|\s*".join(cells) + r"\s*\|"
        assert re.search(row, readme), f"README has no row {letter}, {meaning[:2]}"


def test_experiments_derive_from_at_most_one_other() -> None:
    """Another experiment is derived in one call; there are no chains of two."""
    files = [p for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__"]
    names = {path.stem for path in files}
    bases = {
        path.stem: {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "experiments"
            for alias in node.names
        }
        for path in files
    }
    assert files
    for name, of in bases.items():
        assert len(of) <= 1 and of <= names, (name, of)
        assert all(not bases[base] for base in of), f"{name} derives from a derived one"
