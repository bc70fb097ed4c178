"""Make the fixtures of texts: chat templates as transformers renders them.

pip install -e '.[reference]' && python tests/interchange/make_text_fixtures.py
"""

from __future__ import annotations

import json
from pathlib import Path

import chat_templates
import jinja2
from transformers.utils import (  # pyright: ignore[reportMissingImports]
    chat_template_utils,
)

FOLDER = Path(__file__).parent / "fixtures"


def render(template: str, messages: list[dict[str, str]]) -> str | None:
    """The text, or None where the template refuses the messages."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages],
            chat_template=template,
            add_generation_prompt=True,
            **chat_templates.SPECIAL,
        )
    except jinja2.TemplateError:
        return None
    return rendered[0]


def chats() -> dict[str, dict[str, str | None]]:
    return {
        name: {
            key: render(template, messages)
            for key, messages in chat_templates.CONVERSATIONS.items()
        }
        for name, template in chat_templates.TEMPLATES.items()
    }


def write(name: str, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=True)
    (FOLDER / name).write_text(text + "\n")


if __name__ == "__main__":
    write("chat_templates.json", chats())
