"""Generates the tree and the import table of docs/architecture.md from the code.

    python tests/house/room_tree.py --write

The description of a module is the first sentence of its docstring. Generated blocks
stand between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
LIBRARY = ROOT / "transformer"
COLUMN = 30
# The rooms in the order of the walk, then those beside it. A room that is not listed
# comes last, without a description.
ROOMS = {
    "data": "(step, rows) -> batch: numpy, these rows of that step",
    "network": "tokens_BLD -> tokens_BLD: attention, MLP, norms, the block",
    "models": "batch -> features and an unembedding: embed, blocks, head",
    "processes": "corrupt, predict, update: what generation runs backwards",
    "objectives": "predictions -> Loss(total, weight, sums)",
    "training": "Loss -> gradients -> optimizer -> State -> checkpoint, metrics",
    "generation": "params, prompts -> texts, images, fields, actions",
    "environments": "state, action -> state, reward: worlds to act in",
    "evaluation": "scores, and the baselines that they are compared with",
    "interpretability": "attributions, and tests of whether they are true",
    "plots": "figures of results",
}


def description(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<![ (]al)\.(?: |$)", paragraph)[0]


def entry(indent: int, name: str, text: str) -> str:
    """One line of the tree."""
    return f"{' ' * indent + name:{COLUMN}} {text}".rstrip()


def folder_lines(folder: Path, indent: int) -> list[str]:
    """Modules of a folder, then its subfolders that hold modules."""
    modules = [p for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
    lines = [entry(indent, path.name, description(path)) for path in modules]
    for inner in sorted(p for p in folder.iterdir() if (p / "__init__.py").exists()):
        title = description(inner / "__init__.py")
        lines.append(entry(indent, f"{inner.name}/", title))
        lines += folder_lines(inner, indent + 4)
    return lines


def rooms() -> list[str]:
    """Names of the rooms, in the order of ROOMS."""
    names = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    order = list(ROOMS)
    return sorted(names, key=lambda n: (order.index(n) if n in ROOMS else 99, n))


def tree() -> str:
    """The tree of the library, one line a module."""
    modules = [p for p in sorted(LIBRARY.glob("*.py")) if p.name != "__init__.py"]
    lines = ["transformer/"]
    lines += [entry(2, path.name, description(path)) for path in modules]
    for room in rooms():
        lines.append(entry(2, f"{room}/", ROOMS.get(room, "")))
        lines += folder_lines(LIBRARY / room, 6)
    return "\n".join(["```", *lines, "```"])


def room_of(module: str) -> str:
    """`transformer.data.text.packing` -> `data/`; `transformer.axes` -> `axes`."""
    name = module.split(".")[1]
    return f"{name}/" if (LIBRARY / name).is_dir() else name


def imports(path: Path) -> set[str]:
    """Rooms that a file imports, lazily or not."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "transformer":
                modules |= {f"transformer.{alias.name}" for alias in node.names}
            else:
                modules.add(node.module)
    return {room_of(m) for m in modules if m.startswith("transformer.")}


def import_table() -> str:
    """What each room imports of the others, as a Markdown table."""
    lines = ["| package | imports from `transformer` |", "|---|---|"]
    modules = [p for p in sorted(LIBRARY.glob("*.py")) if p.name != "__init__.py"]
    rows = {path.stem: [path] for path in modules}
    rows |= {f"{room}/": sorted((LIBRARY / room).rglob("*.py")) for room in rooms()}
    for name, files in rows.items():
        found = set[str]().union(*map(imports, files)) - {name}
        cell = ", ".join(f"`{room}`" for room in sorted(found)) or "nothing"
        lines.append(f"| `{name}` | {cell} |")
    return "\n".join(lines)


BLOCKS: dict[str, Callable[[], str]] = {"tree": tree, "imports": import_table}


def with_blocks(page: str) -> str:
    """The page with its generated blocks made anew."""
    for name, make in BLOCKS.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = page.split(start)
        page = before + start + make() + "\n" + end + rest.split(end)[1]
    return page


if __name__ == "__main__":
    text = with_blocks(PAGE.read_text())
    PAGE.write_text(text) if "--write" in sys.argv else print(text)
