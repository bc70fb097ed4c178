"""The program that renders a chat template: a process of its own, with limits.

A template is a program of whoever made the folder. The sandbox of Jinja keeps it from
attributes and files, and the limits of this process end one that loops or grows. It is
started by chat_template.py and imports nothing of this package.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

CPU_SECONDS = 5
MEMORY_BYTES = 512 * 2**20
MAX_CHARACTERS = 2**20


class Generation(jinja2.ext.Extension):
    """The tag `generation` of transformers, which marks what the model said."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        """The node of the tag and its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("render_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def render_body(self, caller: Any) -> str:
        """The text of the body."""
        return caller()


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's, but an attribute that is not allowed is an error, not an empty text."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Raise SecurityError."""
        raise jinja2.exceptions.SecurityError(
            f"attribute {attribute} of {type(obj).__name__}"
        )


def raise_exception(message: str) -> None:
    """Let a template refuse its messages."""
    raise jinja2.TemplateError(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """As transformers: without the escapes of HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def strftime_now(format: str) -> str:
    """The time of day, formatted."""
    return datetime.datetime.now().strftime(format)


def render(template: str, values: dict[str, Any]) -> str:
    """The text of a template, as `apply_chat_template` of transformers renders it."""
    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    pieces, length = [], 0
    for piece in environment.from_string(template).generate(**values):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise ValueError(f"more than {MAX_CHARACTERS} characters")
    return "".join(pieces)


def main() -> None:
    """Read the template, its values and its CPU time as JSON; write its text, or an
    error, so."""
    task = json.load(sys.stdin)
    limits = {
        resource.RLIMIT_CPU: task["cpu_seconds"],
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    try:
        answer = {"text": render(task["template"], task["values"])}
    except MemoryError:
        answer = {"error": f"one that takes more than {MEMORY_BYTES >> 20} MiB"}
    except Exception as error:  # Of the template, whatever it does.
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
