"""Models of SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226), unigram and
BPE, as `tokenizer.json`: the files `.model` and the vocabularies of GGUF.

A file is a message of protocol buffers, `sentencepiece_model.proto`; the few fields
that matter are read here, and the others are passed over.
"""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from transformer.interchange import byte_level_bpe
from transformer.interchange.byte_level_bpe import AddedToken

SPACE = "\u2581"
# The types of a piece.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


class Piece(NamedTuple):
    """A token: its text, its score and its type."""

    text: str
    score: float
    type: int = NORMAL


class Model(NamedTuple):
    """A vocabulary and how text is normalized before. charsmap: the compiled rules, in
    SentencePiece's own form. extra_spaces: whether they are kept."""

    pieces: tuple[Piece, ...]
    kind: int
    byte_fallback: bool
    charsmap: bytes = b""
    dummy_prefix: bool = True
    extra_spaces: bool = False


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The numbers and the values of a message's fields."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(data, place)
        else:
            length = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                length, place = _varint(data, place)
            if wire not in (1, 2, 5) or length > len(data) - place:
                raise ValueError(f"a field of type {wire} and {length} bytes")
            value, place = data[place : place + length], place + length
        yield number, value


def _parse_piece(data: bytes) -> Piece:
    found = dict(_fields(data))
    (score,) = struct.unpack("<f", found.get(2, bytes(4)))
    return Piece(found[1].decode(), score, found.get(3, NORMAL))


def parse(data: bytes, where: str) -> Model:
    """The model of a file. ValueError for one that is no such message, or of another
    kind than unigram and BPE."""
    try:
        outer = list(_fields(data))
        pieces = tuple(_parse_piece(value) for number, value in outer if number == 1)
        trainer = dict(_fields(dict(outer).get(2, b"")))
        norm = dict(_fields(dict(outer).get(3, b"")))
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{where}: expected a model of SentencePiece, got {error}"
        ) from None
    except struct.error as error:
        raise ValueError(f"{where}: expected a score, got {error}") from None
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE) or not pieces:
        raise ValueError(
            f"{where}: expected a unigram (1) or BPE (2) model with pieces, got kind "
            f"{kind} with {len(pieces)}"
        )
    for name, is_known in {
        "spaces before a word": not trainer.get(24, 0),
        "spaces escaped": norm.get(5, 1),
    }.items():
        if not is_known:
            raise ValueError(f"{where}: expected {name}, got others")
    return Model(
        pieces=pieces,
        kind=kind,
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=norm.get(2, b""),
        dummy_prefix=bool(norm.get(3, 1)),
        extra_spaces=not norm.get(4, 1),
    )


def merges_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The merges of a BPE whose pieces have scores: each pair of pieces whose whole is
    one, the highest score first."""
    whole = {p.text: i for i, p in enumerate(pieces) if p.type in (NORMAL, UNUSED)}
    found = []
    for text, index in whole.items():
        for middle in range(1, len(text)):
            left, right = text[:middle], text[middle:]
            if left in whole and right in whole:
                order = -pieces[index].score, len(left), len(right)
                found.append((*order, whole[left], whole[right], left, right))
    return [(entry[-2], entry[-1]) for entry in sorted(found)]


def _normalizer(model: Model) -> Any:
    steps: list[Any] = []

    def replace(pattern: Mapping[str, str], content: str) -> None:
        steps.append({"type": "Replace", "pattern": pattern, "content": content})

    if model.charsmap:
        rules = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": rules})
    if not model.extra_spaces:
        # Only this space: other ones become it by the rules, or are kept. At the end
        # also the letter that stands for it.
        replace({"Regex": rf"\A +|[ {SPACE}]+\z"}, "")
        replace({"Regex": " {2,}"}, " ")
    if model.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    replace({"String": " "}, SPACE)
    return byte_level_bpe.sequence("normalizers", steps)


def _decoder(model: Model) -> Any:
    steps: list[Any] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return byte_level_bpe.sequence("decoders", steps)


def build(
    model: Model,
    where: str,
    *,
    added: Sequence[AddedToken] = (),
    first: Sequence[AddedToken] = (),
    last: Sequence[AddedToken] = (),
) -> str:
    """The tokenizer.json of a model. added: tokens beside those of the model. first,
    last: tokens that stand before and behind each text. ValueError for a vocabulary
    with one text twice, or without an unknown token."""
    texts = [piece.text for piece in model.pieces]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{where}: expected each piece once, got one again")
    unknown = [i for i, p in enumerate(model.pieces) if p.type == UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(
            f"{where}: expected one unknown token, got {len(unknown)} of them"
        )
    kinds = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
    own = [
        AddedToken(i, piece.text, kinds[piece.type])
        for i, piece in enumerate(model.pieces)
        if piece.type in kinds
    ]
    if model.kind == BPE:
        inner: dict[str, Any] = {
            "type": "BPE",
            "dropout": None,
            "unk_token": texts[unknown[0]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": [list(pair) for pair in merges_of(model.pieces)],
        }
    else:
        inner = {
            "type": "Unigram",
            "unk_id": unknown[0],
            "vocab": [[piece.text, piece.score] for piece in model.pieces],
            "byte_fallback": model.byte_fallback,
        }
    return byte_level_bpe.document(
        inner,
        [*own, *added],
        normalizer=_normalizer(model),
        pre_tokenizer=None,
        post_processor=byte_level_bpe.template(first, last),
        decoder=_decoder(model),
    )


def scores_of(content: Mapping[str, Any], where: str) -> dict[str, float]:
    """The scores of a tokenizer.json's tokens, by text, of which `merges_of` makes its
    merges again. ValueError for merges in no order of scores."""
    model = content["model"]
    merges = [split_merge(merge) for merge in model["merges"]]
    places = {left + right: i for i, (left, right) in reversed([*enumerate(merges)])}
    last = len(merges)
    scores = {text: -float(places.get(text, last)) for text in model["vocab"]}
    special = {token["content"] for token in content.get("added_tokens") or []}
    pieces = [Piece(text, scores[text]) for text in scores if text not in special]
    if _groups(merges_of(pieces)) != _groups(merges):
        raise ValueError(
            f"{where}: expected a merge for any two tokens that make a third, those of "
            "one token after another, got others"
        )
    return scores


def split_merge(merge: Any) -> tuple[str, str]:
    """A merge of a tokenizer.json, of either form, as a pair."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _groups(merges: Sequence[tuple[str, str]]) -> list[tuple[str, set[Any]]]:
    """Merges that make the same token, one after another, as a set."""
    by_token = itertools.groupby(merges, key="".join)
    return [(token, set(pairs)) for token, pairs in by_token]


def dummy_prefix_of(content: Mapping[str, Any], where: str) -> bool:
    """Whether a tokenizer.json puts a space before each text, as SentencePiece may.
    ValueError for one whose text is not as `build` leaves it without rules."""
    plain = byte_level_bpe.plain_steps
    found = plain(content.get("normalizer"), "normalizers")
    decoder = plain(content.get("decoder"), "decoders")
    for prefix in (True, False):
        model = Model((), BPE, True, dummy_prefix=prefix, extra_spaces=True)
        steps = plain(_normalizer(model), "normalizers")
        same = (found, decoder) == (steps, plain(_decoder(model), "decoders"))
        if same and content.get("pre_tokenizer") is None:
            return prefix
    raise ValueError(
        f"{where}: expected spaces replaced by {SPACE} and nothing else, got "
        f"{str([*found, content.get('pre_tokenizer'), *decoder])[:100]}"
    )
