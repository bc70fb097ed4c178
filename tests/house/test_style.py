"""The house style that a machine can check: shapes in names, lengths, participles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from transformer.axes import ALPHABET, dimensions

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "transformer").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERY = LIBRARY + EXPERIMENTS + BENCHMARKS + TESTS

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_EXPERIMENT_LINES = 120

# The first argument of an einsum, by whatever name it is called.
SUBSCRIPTS = re.compile(r"[A-Za-z]+(,[A-Za-z]+)*->[A-Za-z]*")
IRREGULAR_PARTICIPLES = set(
    "told said read drawn cut written made born fed lent held kept hidden known found "
    "sent given taken shown spent stood parted begun grown hung seen asked gone done "
    "stored chosen fitted bent built sought bought brought caught heard laid left lost "
    "met paid put run set shut split spread won".split()
)
# Imperatives and terms of the field with the form of a participle.
NO_PARTICIPLES = set(
    "read cut put run set split spread embed unembed feed need speed exceed proceed "
    "shared masked packed padded strided dilated tied untied unrolled scanned sharded "
    "learned bed seed".split()
)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def location(path: Path, node: ast.AST) -> str:
    """path:line of a node."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def report(faults: list[str]) -> str:
    """One fault a line."""
    return f"{len(faults)} faults\n" + "\n".join(faults)


def identifier(node: ast.AST) -> str | None:
    """The name at the end of a name or attribute expression."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


# Shapes in names


def einsum_operands(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, letters, name) of each operand of an einsum, and of its result where that
    is assigned to a name."""
    results = {
        id(node.value): identifier(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        subscripts = getattr(node.args[0], "value", None)
        if not (isinstance(subscripts, str) and SUBSCRIPTS.fullmatch(subscripts)):
            continue
        letters_in, letters_out = subscripts.split("->")
        for letters, operand in zip(letters_in.split(","), node.args[1:], strict=True):
            name = identifier(operand)
            if name is not None:
                yield node.lineno, letters, name
        if results.get(id(node)):
            yield node.lineno, letters_out, results[id(node)] or ""


def suffix_mismatches(tree: ast.AST) -> list[str]:
    """Einsum operands whose suffix is not their letters; letters not in the alphabet.
    A name without a suffix may stand for any array in a few lines of pure algebra."""
    faults = []
    for line, letters, name in einsum_operands(tree):
        if not set(letters) <= set(ALPHABET):
            faults.append(f"line {line}: {letters} is not in the alphabet")
        if dimensions(name) not in ("", letters):
            faults.append(f"line {line}: {name} stands for {letters}")
    return faults


def test_einsum_letters_equal_name_suffixes() -> None:
    faults = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in LIBRARY
        for fault in suffix_mismatches(parse(path))
    ]
    assert not faults, report(faults)


def test_suffix_mismatch_is_reported() -> None:
    good = 'y_BLF = jnp.einsum("BLD,DF->BLF", x_BLD, self.w_in_DF)'
    assert suffix_mismatches(ast.parse(good)) == []
    for old, new, letters in (
        ("w_in_DF", "w_in_FD", "DF"),
        ("y_BLF", "y_BLD", "BLF"),
    ):
        bad = ast.parse(good.replace(old, new))
        assert suffix_mismatches(bad) == [f"line 1: {new} stands for {letters}"]
    assert len(suffix_mismatches(ast.parse(good.replace("D", "Q")))) == 2


def test_einsum_check_sees_the_library() -> None:
    assert sum(1 for path in LIBRARY for _ in einsum_operands(parse(path))) > 60


def parameter_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(attribute, name in the tree) of every `self.x = self.param("x", ...)`, and of
    `self.x = make(self.param, "x", ...)`; a scalar, of shape (), has no dimensions."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        call = node.value
        if "param" not in map(identifier, (call.func, *call.args)):
            continue
        if "()" in map(ast.unparse, call.args):
            continue
        for argument in call.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield identifier(node.targets[0]) or "", argument.value


def test_parameters_have_dimension_suffixes_and_one_name() -> None:
    names = [names for path in LIBRARY for names in parameter_names(parse(path))]
    assert len(names) > 15
    faults = [
        f"{attribute} = {name}"
        for attribute, name in names
        if attribute != name or not dimensions(name)
    ]
    assert not faults, report(faults)


# Lengths


def test_files_are_short() -> None:
    lengths = {path: path.read_text().count("\n") for path in EVERY}
    faults = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path, lines in lengths.items()
        if lines > MAX_FILE_LINES
    ]
    assert not faults, report(faults)


def function_lines(node: ast.FunctionDef) -> int:
    """Lines below the signature and the docstring."""
    body = node.body[ast.get_docstring(node) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    faults = [
        f"{location(path, node)} {node.name}: {function_lines(node)} lines"
        for path in EVERY
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef)
        and function_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not faults, report(faults)


def test_experiments_are_declarations() -> None:
    """Baselines, pictures and tables stand in experiments/reports/."""
    files = sorted((ROOT / "experiments").glob("*.py"))
    lengths = {path.name: path.read_text().count("\n") for path in files}
    faults = [
        f"experiments/{name}: {lines} lines"
        for name, lines in lengths.items()
        if lines > MAX_EXPERIMENT_LINES
    ]
    assert not faults, report(faults)


def test_experiments_derive_from_at_most_one_other() -> None:
    """Another experiment is derived in one call; there are no chains of two."""
    files = [p for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__"]
    names = {path.stem for path in files}
    bases = {
        path.stem: names
        & {
            alias.name
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ImportFrom) and node.module == "experiments"
            for alias in node.names
        }
        for path in files
    }
    assert files
    for name, of in bases.items():
        assert len(of) <= 1, (name, of)
        assert all(not bases[base] for base in of), f"{name} derives from a derived one"


# Names and docstrings


def test_public_names_of_the_library_are_documented() -> None:
    """A test's name is its docstring."""
    faults = []
    for path in LIBRARY:
        if path.name == "__init__.py":
            continue
        tree = parse(path)
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        ]
        if not ast.get_docstring(tree):
            faults.append(f"{location(path, tree)} module")
        faults += [
            f"{location(path, node)} {node.name}"
            for node in public
            if not ast.get_docstring(node)
        ]
    assert not faults, report(faults)


def is_participle(name: str) -> bool:
    """Whether a name is one past participle and nothing else."""
    word = name.strip("_").lower()
    if "_" in word or word in NO_PARTICIPLES:
        return False
    return word in IRREGULAR_PARTICIPLES or bool(re.fullmatch("[a-z]{3,}ed", word))


def test_participles_are_recognized() -> None:
    assert all(map(is_participle, ("told", "Drawn", "_gathered", "normalized")))
    assert not any(map(is_participle, ("speed", "embed", "read", "packed_rows")))


def test_functions_and_classes_are_not_named_by_participles() -> None:
    """A function is a noun or an imperative; nested and private ones too."""
    faults = [
        f"{location(path, node)} {node.name}"
        for path in LIBRARY + EXPERIMENTS + BENCHMARKS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and is_participle(node.name)
    ]
    assert not faults, report(faults)


def parameters_and_fields(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Parameters of functions, and annotated fields of classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node, node.arg
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    yield field, identifier(field.target) or ""


def test_parameters_and_fields_are_not_named_by_irregular_participles() -> None:
    """A regular one (`enabled`, `finished`) may be the adjective of a Boolean."""
    faults = [
        f"{location(path, node)} {name}"
        for path in LIBRARY + EXPERIMENTS + BENCHMARKS
        for node, name in parameters_and_fields(parse(path))
        if name in IRREGULAR_PARTICIPLES - NO_PARTICIPLES - {"done"}
    ]
    assert not faults, report(faults)


def test_nightly_cases_exist():
    """A case whose test is renamed would run by day."""
    missing = []
    for name in (ROOT / "tests" / "nightly.txt").read_text().splitlines():
        file, _, case = name.partition("::")
        path, function = ROOT / file, case.partition("[")[0]
        if not path.exists() or f"def {function}(" not in path.read_text():
            missing.append(name)
    assert not missing
