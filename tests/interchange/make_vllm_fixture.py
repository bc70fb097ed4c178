"""The names of vLLM's decoders, frozen with its version.

    pip download --no-deps --only-binary :all: vllm && \
        python tests/interchange/make_vllm_fixture.py vllm-*.whl

Reads the registry in the wheel as a syntax tree: nothing of it is installed or run.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path

FILE = Path(__file__).parent / "fixtures" / "vllm.json"
MODELS, CONFIG = "vllm/model_executor/models/registry.py", "vllm/config/model.py"
# By vLLM's own code, by that of transformers inside vLLM, and those whose model types
# it refuses in float16.
TABLES = {
    "own": (MODELS, "_TEXT_GENERATION_MODELS"),
    "transformers": (MODELS, "_TRANSFORMERS_SUPPORTED_MODELS"),
    "no_float16": (CONFIG, "_FLOAT16_NOT_SUPPORTED_MODELS"),
}


def keys(source: str, table: str) -> list[str]:
    """The keys of a dictionary that a module assigns to `table`."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if table in names and isinstance(node, ast.Assign):
            assert isinstance(node.value, ast.Dict)
            found = [
                key.value for key in node.value.keys if isinstance(key, ast.Constant)
            ]
            return sorted(map(str, found))
    raise ValueError(f"{table}: expected a dictionary, got none")


def main(wheel: Path) -> None:
    """Write `FILE`."""
    content: dict[str, object] = {"version": wheel.name.split("-")[1]}
    with zipfile.ZipFile(wheel) as archive:
        for name, (file, table) in TABLES.items():
            content[name] = keys(archive.read(file).decode(), table)
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
