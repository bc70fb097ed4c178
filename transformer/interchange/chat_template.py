"""Chat templates: messages as the text that a model was trained on.

Rendered in a process of its own (template_process.py), because a template is a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer.interchange import (
    gguf_folder,
    template_process,
    tensor_files,
    tokenizer_conversion,
)

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
# Of wall time; the process has its own limit of CPU time.
MAX_SECONDS = 60
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_template(folder: Path) -> tuple[str, dict[str, str]]:
    """The template of a folder and the special tokens that it may name. ValueError
    where there is none."""
    folder = gguf_folder.resolve(folder)
    settings: dict[str, Any] = {}
    if (folder / SETTINGS).is_file():
        settings = tensor_files.read_json_file(folder / SETTINGS)
    has_file = (folder / FILE).is_file()
    content = tokenizer_conversion.read_bytes(folder / FILE) if has_file else None
    found = find_template(settings, content)
    if found is None:
        raise ValueError(
            f"{folder}: expected {FILE}, or chat_template in {SETTINGS}, got none: the "
            "model has not learned to chat"
        )
    special = {}
    for name in SPECIAL:
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            special[f"{name}_token"] = token
    return found, special


def find_template(settings: Mapping[str, Any], content: bytes | None) -> str | None:
    """The template of `SETTINGS`, or that of `FILE`, with `content`, where there is
    one; None for neither."""
    if content is not None:
        return content.decode(errors="replace")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one for one in found if isinstance(one, dict)}
        found = named.get("default", {}).get("template")
    return found if isinstance(found, str) else None


def check_messages(messages: Any) -> None:
    """ValueError unless these are messages with a role and a content, texts both."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(
            "messages: expected a list of {'role': ..., 'content': ...}, got "
            f"{str(messages)[:60]!r}"
        )
    for message in messages:
        is_pair = isinstance(message, Mapping) and all(
            isinstance(message.get(key), str) for key in ("role", "content")
        )
        if not is_pair:
            raise ValueError(
                "messages: expected a role and a content, texts both, got "
                f"{str(message)[:60]}"
            )


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    special: Mapping[str, str],
    *,
    reply: bool = True,
) -> str:
    """The text of messages and, with `reply`, the beginning of the reply. ValueError,
    in one line, for a template that fails, that loops, or that reaches for more than
    its values."""
    check_messages(messages)
    values = {"messages": list(messages), "add_generation_prompt": reply, **special}
    values |= {"tools": None, "documents": None}
    limit = template_process.CPU_SECONDS
    task = json.dumps({"template": template, "values": values, "cpu_seconds": limit})
    # Isolated: no environment variable and no folder of the caller.
    command = [sys.executable, "-I", "-X", "utf8", template_process.__file__]
    try:
        done = subprocess.run(
            command,
            input=task.encode(),
            capture_output=True,
            timeout=MAX_SECONDS,
            env={},
        )
    except subprocess.TimeoutExpired:
        raise _error(f"one that takes more than {MAX_SECONDS} seconds") from None
    if done.returncode < 0:
        raise _error(f"one that takes more than {limit} seconds of CPU time or memory")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["none"]
        raise _error(lines[-1]) from None
    if "error" in answer:
        raise _error(answer["error"])
    return answer["text"]


def _error(got: str) -> ValueError:
    return ValueError(
        f"chat template: expected a text, got {' '.join(got.split())[:200]}"
    )


def render_chat(folder: Path, messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of messages by the template of a folder. ValueError as `read_template`
    and `render`."""
    template, special = read_template(folder)
    return render(template, messages, special)
