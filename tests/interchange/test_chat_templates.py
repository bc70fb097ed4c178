"""Chat templates give the texts of transformers, and no template gets away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import chat_templates
import pretrained_folder
import pytest

import transformer
from transformer.generation import text_model
from transformer.interchange import chat, chat_template

RENDERED = json.loads(
    (Path(__file__).parent / "fixtures" / "chat_templates.json").read_text()
)


@pytest.mark.parametrize("name", chat_templates.TEMPLATES)
def test_texts_are_those_of_transformers(name: str) -> None:
    """Frozen by make_text_fixtures.py."""
    for conversation, expected in RENDERED[name].items():
        messages = chat_templates.CONVERSATIONS[conversation]
        template = chat_templates.TEMPLATES[name]
        if expected is None:
            with pytest.raises(ValueError, match="chat template: expected a text"):
                chat_template.render(template, messages, chat_templates.SPECIAL)
        else:
            ours = chat_template.render(template, messages, chat_templates.SPECIAL)
            assert ours == expected


HOSTILE = {
    "loops for ever": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in "
        "range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "seconds of CPU time",
    ),
    "calls itself": (
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "RecursionError|CPU time or memory",
    ),
    "grows": ("{{ 'a' * 10**10 }}", "more than 512 MiB"),
    "writes much": (
        "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "more than 1048576 characters",
    ),
    "a large power": ("{{ 9 ** (9 ** 9) }}", "CPU time or memory|512 MiB"),
    "a large range": ("{{ range(10**9) | list }}", "Range too big"),
    "a class": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "globals of a function": ("{{ raise_exception.__globals__ }}", "SecurityError"),
    "an attribute by a filter": (
        "{{ (''|attr('__class__'))|attr('__mro__') }}",
        "SecurityError|UndefinedError",
    ),
    "code of a generator": (
        "{{ (messages|map('upper')).gi_frame.f_globals }}",
        "SecurityError",
    ),
    "a format string": ("{{ '{0.__class__.__mro__}'.format('') }}", "SecurityError"),
    "a file": ("{% include '/etc/passwd' %}", "no loader"),
    "an import": ("{% import 'os' as os %}", "no loader"),
    "changes its messages": ("{{ messages.append(1) }}", "SecurityError"),
    "bad syntax": ("{% for %}", "TemplateSyntaxError"),
    "an undefined name": ("{{ nothing.at.all }}", "UndefinedError"),
    "an error of several lines": ("{{ raise_exception('a\\nb') }}", "got .* a b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_are_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template.template_process, "CPU_SECONDS", 2)
    template, message = HOSTILE[name]
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message) as refusal:
        chat_template.render(template, [{"role": "user", "content": "a"}], {})
    assert time.monotonic() - begun < chat_template.MAX_SECONDS
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "messages", [[], "hello", [3], [{"role": "user"}], [{"role": 1, "content": "a"}]]
)
def test_messages_have_a_role_and_a_content(messages: Any) -> None:
    with pytest.raises(ValueError, match="messages: expected"):
        chat_template.render("", messages, {})


def test_a_folder_has_its_template_in_either_file(tmp_path: Path) -> None:
    """The file of its own goes first; of several, the default one."""
    with pytest.raises(ValueError, match=r"expected chat_template.jinja, or"):
        chat_template.read_template(tmp_path)
    settings = {
        "bos_token": {"content": "<s>"},
        "chat_template": [
            {"name": "tools", "template": "no"},
            {"name": "default", "template": "{{ bos_token }}a"},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    message = [{"role": "user", "content": "b"}]
    assert chat_template.render_chat(tmp_path, message) == "<s>a"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert chat_template.render_chat(tmp_path, message) == "b"


def test_a_chat_has_ends_of_turns_and_a_text_has_none(tmp_path: Path) -> None:
    """A turn may end with the token that ends a text; the reply is without prompt."""
    path = pretrained_folder.write(tmp_path / "model")
    template = "{{ messages[0].content }}<|end|>"
    (path / "chat_template.jinja").write_text(template)
    model = transformer.load(path)
    reply = model.chat([{"role": "user", "content": "he"}], new_tokens=2)
    assert 0 < len(model.tokenizer.encode(reply)) and "<|end|>" not in reply
    with pytest.raises(ValueError, match="got its end, token 257"):
        model.generate("he<|end|>", new_tokens=2)


def test_penalties_of_a_folder_are_not_followed_which_a_line_says(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(text_model, "generate", lambda *_, **flags: flags["prompt"])
    (tmp_path / "config.json").write_text("{}")
    settings: dict[str, Any] = {"repetition_penalty": 1.1, "num_beams": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    none: Any = None
    assert chat.generate(tmp_path, none, none, none, prompt="a") == "a"
    line = f"{tmp_path}: repetition_penalty = 1.1: not followed; each token is chosen "
    said = capsys.readouterr().out
    assert said.startswith(line) and said.count("\n") == 1
