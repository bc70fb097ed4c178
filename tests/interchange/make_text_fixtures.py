"""Make the fixtures of texts: chat templates as transformers renders them, and tiny
tokenizers with the ids of the libraries that they come from.

pip install -e '.[reference]' sentencepiece tiktoken
python tests/interchange/make_text_fixtures.py [TOKENIZER...]
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import chat_templates
import jinja2
import sentencepiece  # pyright: ignore[reportMissingImports]
import tiktoken  # pyright: ignore[reportMissingImports]
import tokenizers
import transformers  # pyright: ignore[reportMissingImports]
from hard_texts import HARD, MARKED
from sentencepiece import sentencepiece_model_pb2  # pyright: ignore[reportMissingImports]
from transformers.models.bert import (  # pyright: ignore[reportMissingImports]
    tokenization_bert_legacy,
)
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


# Full-width digits become digits, other spaces this one: a small table of rules.
RULES = [*((0xFF10 + i, 0x30 + i) for i in range(10)), (0xA0, 0x20), (0x9, 0x20)]


def sentence_piece(folder: Path, kind: str, **options: Any) -> list[list[int]]:
    """A model trained on the hard texts."""
    rules = folder / "rules.tsv"
    rules.write_text("".join(f"{a:x}\t{b:x}\n" for a, b in RULES))
    sentencepiece.SentencePieceTrainer.train(
        model_prefix=str(folder / "tokenizer"),
        model_type=kind,
        normalization_rule_tsv=str(rules),
        hard_vocab_limit=False,
        minloglevel=2,
        **{"sentence_iterator": iter(HARD * 20), **options},
    )
    for name in ("rules.tsv", "tokenizer.vocab"):
        (folder / name).unlink()
    file = folder / "tokenizer.model"
    drop_paths(file)
    return sentencepiece.SentencePieceProcessor(model_file=str(file)).encode(HARD)


def drop_paths(file: Path) -> None:
    """Remove from a model where it was trained: files of the machine."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(file.read_bytes())
    model.trainer_spec.model_prefix = model.normalizer_spec.normalization_rule_tsv = ""
    file.write_bytes(model.SerializeToString())


def spm_bpe(folder: Path) -> list[list[int]]:
    return sentence_piece(
        folder,
        "bpe",
        vocab_size=400,
        byte_fallback=True,
        remove_extra_whitespaces=False,
    )


def spm_unigram(folder: Path) -> list[list[int]]:
    return sentence_piece(folder, "unigram", vocab_size=120, character_coverage=0.98)


GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _ranks() -> tuple[dict[str, int], list[list[str]], dict[bytes, int]]:
    """A vocabulary of bytes and merges, and its ranks."""
    level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=level.alphabet(), show_progress=False
    )
    made.train_from_iterator(HARD * 3, trainer)
    model = json.loads(made.to_str())["model"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in plain]
    letters = {chr(v): v for v in plain}
    letters |= {chr(256 + i): v for i, v in enumerate(others)}
    ranks = {bytes(letters[x] for x in k): i for k, i in model["vocab"].items()}
    return model["vocab"], model["merges"], ranks


def _tiktoken(pattern: str, ranks: dict[bytes, int]) -> list[list[int]]:
    made = tiktoken.Encoding(
        "x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    return [made.encode(text) for text in HARD]


def gpt2_files(folder: Path) -> list[list[int]]:
    vocab, merges, ranks = _ranks()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return _tiktoken(GPT2, ranks)


def llama3_ranks(folder: Path) -> list[list[int]]:
    ranks = _ranks()[2]
    lines = [f"{base64.b64encode(k).decode()} {i}" for k, i in ranks.items()]
    (folder / "model.tiktoken").write_text("\n".join(lines) + "\n")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return _tiktoken(LLAMA3, ranks)


def word_piece(folder: Path) -> list[list[int]]:
    words = (
        "[PAD] [UNK] [CLS] [SEP] [MASK] the capital of is lisbon cafe naive 3 . , ##s"
    )
    words += " angstrom a ##b ##c i ' m you re \u4f60 \u597d def f ( x ) : 123 ##4 ##x"
    tokens = [*words.split(), *(f"##{x}" for x in "defghijklmnopqrtuvwyz0156789")]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    kind = tokenization_bert_legacy.BertTokenizerLegacy
    made = kind(str(folder / "vocab.txt"))
    return [made.encode(text, add_special_tokens=False) for text in HARD]


def marian(folder: Path) -> list[list[int]]:
    """Two models, of which the target's has pieces that the source's has not, and ids
    in an order of their own; texts of ids in `texts.json`, and ids of targets in
    `target_ids.json`."""
    target = [text[::-1] for text in HARD] * 20
    sentence_piece(folder, "unigram", vocab_size=110, character_coverage=0.98)
    (folder / "tokenizer.model").rename(folder / "source.spm")
    sentence_piece(
        folder,
        "unigram",
        vocab_size=120,
        character_coverage=0.99,
        sentence_iterator=iter(target),
    )
    (folder / "tokenizer.model").rename(folder / "target.spm")
    pieces: set[str] = set()
    for name in ("source.spm", "target.spm"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        pieces |= {model.id_to_piece(i) for i in range(model.vocab_size())}
    others = sorted(pieces - {"<unk>", "</s>", "<s>"}, key=lambda one: one[::-1])
    tokens = ["</s>", "<unk>", *others, ">>fra<<", "<pad>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    settings = {"tokenizer_class": "MarianTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    made = transformers.MarianTokenizer.from_pretrained(folder)
    rows = [made.encode(text) for text in [*HARD, *MARKED]]
    rows += [list(range(len(tokens))), [len(tokens) - 1, *range(20, 60, 3), 0]]
    texts = [made.decode(ids, skip_special_tokens=True) for ids in rows]
    (folder / "texts.json").write_text(json.dumps(texts) + "\n")
    targets = [made(text_target=text)["input_ids"] for text in HARD]
    (folder / "target_ids.json").write_text(json.dumps(targets) + "\n")
    return rows


TOKENIZERS = (spm_bpe, spm_unigram, gpt2_files, llama3_ranks, word_piece, marian)


def write_tokenizers() -> None:
    """A folder for each, and `ids.json`."""
    for make in TOKENIZERS:
        if sys.argv[1:] and make.__name__ not in sys.argv[1:]:
            continue
        folder = FOLDER / "tokenizers" / make.__name__
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "ids.json").write_text(json.dumps(make(folder)) + "\n")


def write(name: str, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=True)
    (FOLDER / name).write_text(text + "\n")


if __name__ == "__main__":
    if not sys.argv[1:]:
        write("chat_templates.json", chats())
    write_tokenizers()
