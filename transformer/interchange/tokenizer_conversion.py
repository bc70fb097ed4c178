"""A `tokenizer.json` for folders that have only the files of older tokenizers.

GPT-2's `vocab.json` and `merges.txt`, SentencePiece's `.model`, BERT's `vocab.txt`, and
ranks of tiktoken. What a file does not say, such as how text is cut, follows from the
class of the tokenizer; classes that do more are refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformer.interchange import byte_level_bpe, sentence_piece, tensor_files
from transformer.interchange.byte_level_bpe import QWEN2, AddedToken, Cut

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
MAX_BYTES = 64 * 2**20
# Of tokenizer.json and other files that are copied as they are.
MAX_FILE_BYTES = 256 * 2**20
# Of byte-level BPE, by class; an empty name is a folder that says none.
BPE_CUTS = {"": Cut(), "GPT2": Cut(), "Qwen2": Cut(QWEN2, nfc=True)}
# Of tiktoken, which builds no word of the vocabulary from its parts.
RANK_CUTS = {
    "GPT2": Cut(whole_words=True),
    "QWen": Cut(QWEN2, nfc=True, whole_words=True),
    "Llama": Cut(byte_level_bpe.LLAMA3, whole_words=True),
    "PreTrained": Cut(byte_level_bpe.LLAMA3, whole_words=True),
}
# The tokens before and behind a text, of SentencePiece.
AROUND: Mapping[str, tuple[bool, bool]] = {
    "": (False, False),
    "Llama": (True, False),
    "Gemma": (True, False),
    "T5": (False, True),
}
BERT = ("", "Bert", "DistilBert", "Electra")


def _find(folder: Path) -> tuple[Callable[..., str], tuple[Path, ...]] | None:
    """The conversion of a folder's older files, and these."""
    for names, convert in CONVERSIONS:
        found = [next(iter(sorted(folder.glob(name))), None) for name in names]
        files = tuple(path for path in found if path is not None)
        if len(files) == len(names):
            return convert, files
    return None


def can_read(folder: Path) -> bool:
    """Whether `read` finds a file."""
    return (folder / FILE).is_file() or _find(folder) is not None


def read(folder: Path) -> str | None:
    """The text of a folder's tokenizer.json, or of one made from its older files, which
    is said in one line; None where it has neither. ValueError for files that are not
    understood."""
    if (folder / FILE).is_file():
        return read_bytes(folder / FILE, MAX_FILE_BYTES).decode()
    found = _find(folder)
    if found is None:
        return None
    convert, files = found
    names = " and ".join(path.name for path in files)
    print(f"{folder}: {FILE} made from {names}", flush=True)
    changed = tuple(path.stat().st_mtime_ns for path in files)
    return _convert(convert, folder, files, changed)


@functools.lru_cache(4)
def _convert(
    convert: Callable[..., str], folder: Path, files: tuple[Path, ...], changed: Any
) -> str:
    settings: dict[str, Any] = {}
    if (folder / SETTINGS).is_file():
        settings = tensor_files.read_json_file(folder / SETTINGS)
    return convert(settings, *files)


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: expected UTF-8, got other bytes") from None


def read_bytes(file: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file. ValueError for more than `most`."""
    if file.stat().st_size > most:
        raise ValueError(
            f"{file}: expected at most {most} bytes, got {file.stat().st_size}"
        )
    return file.read_bytes()


def read_kind(settings: Mapping[str, Any], file: Path, kinds: Any) -> str:
    """The class of the tokenizer, without its ending. ValueError for one that is not
    of `kinds`."""
    name = str(settings.get("tokenizer_class") or "")
    kind = name.removesuffix("Fast").removesuffix("Tokenizer")
    if kind not in kinds:
        raise ValueError(
            f"{file}: tokenizer_class: expected one of "
            f"{', '.join(f'{one}Tokenizer' if one else 'none' for one in kinds)}, got "
            f"{name[:60] or 'none'}; transformers writes {FILE}: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    return kind


def _extra_tokens(settings: Mapping[str, Any], file: Path) -> list[AddedToken]:
    """The tokens of `added_tokens_decoder`."""
    found = settings.get("added_tokens_decoder") or {}
    added = []
    for number, token in found.items() if isinstance(found, dict) else ():
        content = token.get("content") if isinstance(token, dict) else None
        if not (str(number).isdecimal() and isinstance(content, str) and content):
            raise ValueError(
                f"{file.parent / SETTINGS}: added_tokens_decoder: expected ids with "
                f"contents, got {str(number)[:30]!r}: {str(token)[:60]}"
            )
        added.append(AddedToken(int(number), content, bool(token.get("special"))))
    return added


def read_vocab(file: Path) -> dict[str, int]:
    """The ids of tokens in a `vocab.json`. ValueError for others than whole numbers."""
    values = tensor_files.read_json_file(file)
    if not values or not all(type(i) is int and i >= 0 for i in values.values()):
        raise ValueError(f"{file}: expected tokens with ids, got others")
    return values


def _byte_level(settings: Mapping[str, Any], vocab: Path, merges: Path) -> str:
    values = read_vocab(vocab)
    pairs = byte_level_bpe.read_merges(_text(merges), str(merges))
    for left, right in pairs:
        if not {left, right, left + right} <= values.keys():
            raise ValueError(
                f"{merges}: expected merges of tokens in {vocab.name}, got "
                f"{left[:20]!r} and {right[:20]!r}"
            )
    added = _extra_tokens(settings, vocab)
    known = {token.content for token in added}
    ends = [t for t in ("<|endoftext|>",) if t in values and t not in known]
    added += [AddedToken(values[token], token, True) for token in ends]
    cut = BPE_CUTS[read_kind(settings, vocab, BPE_CUTS)]
    return byte_level_bpe.build(values, pairs, cut, added=added)


def _ranks(settings: Mapping[str, Any], file: Path) -> str:
    cut = RANK_CUTS[read_kind(settings, file, RANK_CUTS)]
    ranks = byte_level_bpe.read_ranks(_text(file), str(file))
    vocab, merges = byte_level_bpe.of_ranks(ranks)
    return byte_level_bpe.build(vocab, merges, cut, added=_extra_tokens(settings, file))


def _sentence_piece(settings: Mapping[str, Any], file: Path) -> str:
    kind = read_kind(settings, file, AROUND)
    model = sentence_piece.parse(read_bytes(file), str(file))
    texts = [piece.text for piece in model.pieces]
    added = [t for t in _extra_tokens(settings, file) if t.content not in texts]
    around = []
    for name, token, default in zip(
        ("bos", "eos"), ("<s>", "</s>"), AROUND[kind], strict=True
    ):
        token = settings.get(f"{name}_token") or token
        token = token.get("content") if isinstance(token, dict) else token
        wanted = settings.get(f"add_{name}_token")
        wanted = default if wanted is None else wanted
        one = [AddedToken(texts.index(token), token, True)] if token in texts else []
        around.append(one if wanted else [])
    first, last = around
    return sentence_piece.build(model, str(file), added=added, first=first, last=last)


def _word_piece(settings: Mapping[str, Any], file: Path) -> str:
    read_kind(settings, file, BERT)
    lines = _text(file).split("\n")
    tokens = [line.rstrip("\r") for line in lines[: -1 if not lines[-1] else None]]
    vocab = {token: i for i, token in enumerate(tokens)}
    names = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    names |= {"pad": "[PAD]", "mask": "[MASK]"}
    special = {k: str(settings.get(f"{k}_token") or one) for k, one in names.items()}
    missing = [special[k] for k in ("unk", "cls", "sep") if special[k] not in vocab]
    if missing or len(vocab) < len(tokens):
        got = f"none of {missing[0]}" if missing else "a token twice"
        raise ValueError(
            f"{file}: expected a token in each line, each once, and {special['unk']}, "
            f"{special['cls']}, {special['sep']}, got {got}"
        )
    marks = {
        name: AddedToken(vocab[token], token, True)
        for name, token in special.items()
        if token in vocab
    }
    return byte_level_bpe.document(
        {
            "type": "WordPiece",
            "unk_token": special["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
        [*marks.values(), *_extra_tokens(settings, file)],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor={
            "type": "BertProcessing",
            "sep": [special["sep"], vocab[special["sep"]]],
            "cls": [special["cls"], vocab[special["cls"]]],
        },
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


CONVERSIONS: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
    (("vocab.json", "merges.txt"), _byte_level),
    (("*.tiktoken",), _ranks),
    (("tokenizer.model",), _sentence_piece),
    (("spiece.model",), _sentence_piece),
    (("vocab.txt",), _word_piece),
)
