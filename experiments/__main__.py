"""The list of experiments: python -m experiments."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

HELP = ("--help", "-h", "help")


def listing() -> str:
    """A line for each experiment: its name and the first sentence of its docstring."""
    files = [f for f in Path(__file__).parent.glob("*.py") if f.stem[:2] != "__"]
    width = max(len(file.stem) for file in files)
    return "\n".join(f"{f.stem:{width}}  {_question(f)}" for f in sorted(files))


def _question(file: Path) -> str:
    # Parsed, since an import of every experiment takes seconds.
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return re.split(r"(?<=[.?])\s", text, maxsplit=1)[0].replace("\n", " ")


def main() -> int:
    """Print the list; the exit status, 2 for arguments, since each experiment is a
    module of its own."""
    given = [argument for argument in sys.argv[1:] if argument not in HELP]
    if given:
        print(
            f"error: expected python -m experiments.NAME [--flag=value ...], got "
            f"{' '.join(given)!r} behind python -m experiments, which lists the names",
            file=sys.stderr,
        )
        return 2
    print(f"python -m experiments.NAME [VERB] [--flag=value ...]\n\n{listing()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
