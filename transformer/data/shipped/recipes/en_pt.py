"""English sentences and their Portuguese translations, from LibreOffice's help.

The help has one HTML page for each topic in both languages; a paragraph has the same id
in both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer import storage
from transformer.data.shipped.recipes import packages

PACKAGES = (
    packages.Package(
        "Debian",
        "libreoffice-help-en-us",
        "4:7.4.7-1+deb12u14",
        "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    ),
    packages.Package(
        "Debian",
        "libreoffice-help-pt-br",
        "4:7.4.7-1+deb12u14",
        "600d4294e52a6534be923521aff7b1b9eb7e6ddb7e30b2598ad04b2fe9cf8278",
    ),
)
FOLDERS = (
    "usr/share/libreoffice/help/en-US",
    "usr/share/libreoffice/help/pt-BR",
)
HELD_OUT = 0.05
WORDS = (3, 80)  # of the English side
RATIO = (0.4, 2.5)  # Portuguese characters for each English one
ORIGIN = {
    "name": "en_pt",
    "what": "English - Portuguese (Brazil) pairs of sentences or short paragraphs",
    "licence": "MPL-2.0, Copyright LibreOffice contributors and Oracle and/or its "
    "affiliates",
    "homepage": "https://help.libreoffice.org",
    "packages": packages.facts(PACKAGES),
    "built_by": "transformer/data/shipped/build.py",
    "format": "one pair on each line: number of the help page, English, Portuguese, "
    "with a tab between; UTF-8, xz",
    "selection": "paragraphs with the same page and id, different from each other, "
    f"{WORDS[0]} to {WORDS[1]} English words, {RATIO[0]} to {RATIO[1]} times as many "
    "characters in Portuguese; each pair once",
    "split": "the pages with the smallest 5 % of sha256(path) are validation, without "
    "the pairs of which either side, up to case, digits and punctuation, is on a page "
    "of train",
}
PARAGRAPH = re.compile(r'<(p|h\d)\b[^>]*\bid="([^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
INNERMOST = re.compile(r"<span\b([^>]*)>((?:(?!</?span\b).)*)</span>", re.DOTALL)
VARIANT = re.compile("\x01(.)(.*?)\x02", re.DOTALL)


def _span_text(match: re.Match[str]) -> str:
    """The text of a span; of several platforms' variants only the default one."""
    attributes, body = match.groups()
    if 'hidden="true"' in attributes:
        usual = 'id="default' in attributes
        return f"\x01{'+' if usual else '-'}{body}\x02"
    if 'class="switchinline"' in attributes:
        variants = sorted(VARIANT.findall(body), key=lambda variant: variant[0])
        return variants[0][1] if variants else body
    return body


def plain_text(marked: str) -> str:
    """The visible text of a piece of HTML, on one line."""
    before = ""
    while before != marked:
        before, marked = marked, INNERMOST.sub(_span_text, marked)
    spaced = re.sub(r"<(br|img)\b[^>]*>", " ", marked)
    bare = re.sub(r"<[^>]*>|[\x01\x02][-+]?", "", spaced)
    return re.sub(r"\s+", " ", html.unescape(bare)).strip()


def paragraphs(page: Path) -> dict[str, str]:
    """Id to text of each paragraph and heading of an HTML page."""
    found = PARAGRAPH.finditer(page.read_text(encoding="utf-8"))
    return {match[2]: plain_text(match[3]) for match in found}


def is_pair(first: str, second: str) -> bool:
    """Whether the pair passes the filters on length and ratio."""
    few, many = WORDS
    if first == second or not second or not few <= len(first.split()) <= many:
        return False
    return RATIO[0] < len(second) / len(first) < RATIO[1]


def pages(roots: Sequence[Path]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(path, pairs) of each page that both languages have."""
    english, portuguese = (
        root / folder for root, folder in zip(roots, FOLDERS, strict=True)
    )
    for page in sorted(english.rglob("*.html")):
        path = page.relative_to(english).as_posix()
        if not (portuguese / path).is_file():
            continue
        there = paragraphs(portuguese / path)
        both = [(text, there.get(key, "")) for key, text in paragraphs(page).items()]
        yield path, [pair for pair in both if is_pair(*pair)]


def is_held_out(path: str) -> bool:
    """Whether the page is validation."""
    return int(storage.sha256(path.encode())[:16], 16) < HELD_OUT * 2**64


def letters(text: str) -> str:
    """The letters alone, which are equal for equal sentences."""
    return "".join(filter(str.isalpha, text.casefold()))


def build(roots: Sequence[Path]) -> packages.Dataset:
    """One file of pairs for each split, and the list of pages."""
    found = [page for page in pages(roots) if page[1]]
    train, validation = {}, {}
    for number, (path, pairs) in enumerate(found):
        for pair in pairs:
            (validation if is_held_out(path) else train).setdefault(pair, number)
    seen = [{letters(pair[side]) for pair in train} for side in (0, 1)]
    fresh = {
        (first, second): number
        for (first, second), number in validation.items()
        if letters(first) not in seen[0] and letters(second) not in seen[1]
    }
    files = {}
    for split, rows in {"train": train, "validation": fresh}.items():
        lines = [f"{number}\t{a}\t{b}\n" for (a, b), number in rows.items()]
        files[f"{split}.tsv.xz"] = packages.pack("".join(lines).encode())
    listing = "".join(f"{path}\n" for path, _ in found)
    files["pages.txt.xz"] = packages.pack(listing.encode())
    counts = {"train": len(train), "validation": len(fresh)}
    return packages.Dataset(files, {**ORIGIN, "examples": counts})
