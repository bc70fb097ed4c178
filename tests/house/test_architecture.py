"""docs/architecture.md shows the tree and the imports that there are."""

import ast
import re
from pathlib import Path

import room_tree

PAGE = room_tree.PAGE.read_text()
PROSE = re.sub(r"^```$.*?^```$", "", PAGE, flags=re.M | re.S)


def definitions(path: Path) -> set[str]:
    """`module.name` of a file's functions, classes and constants; `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(f"{path.stem}.{node.name}")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            found.add(f"{path.stem}.{ast.unparse(target)}")
        if isinstance(node, ast.ClassDef):
            members = [m for m in node.body if isinstance(m, ast.FunctionDef)]
            found |= {f"{node.name}.{member.name}" for member in members}
    return found


def test_generated_blocks_are_current():
    """Otherwise: python tests/house/room_tree.py --write."""
    current, page = room_tree.with_blocks(PAGE).splitlines(), PAGE.splitlines()
    stale = [f"- {line}" for line in page if line not in current]
    fresh = [f"+ {line}" for line in current if line not in page]
    assert current == page, "\n".join(stale + fresh)


def test_paths_in_prose_exist():
    """`room/module.py` is a file of the library, of the experiments or of the root."""
    roots = (room_tree.LIBRARY, room_tree.ROOT)
    paths = re.findall(r"`([\w./]+(?:\.py|/))`", PROSE)
    missing = [p for p in paths if not any((root / p).exists() for root in roots)]
    assert len(paths) > 20
    assert not missing, missing


def test_names_in_prose_exist():
    """`module.name` and `Class.method`, also where a call's arguments follow."""
    files = sorted(room_tree.LIBRARY.rglob("*.py"))
    known = set[str]().union(*map(definitions, files))
    names = re.findall(
        r"`([A-Za-z_]+\.(?!(?:py|jsonl|json|cfg|md)\b)[A-Za-z_]+)[`(]", PROSE
    )
    owners = {path.stem for path in files} | {name.split(".")[0] for name in known}
    missing = [n for n in names if n.split(".")[0] in owners and n not in known]
    assert len(names) > 5
    assert not missing, missing
