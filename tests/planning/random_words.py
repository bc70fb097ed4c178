"""Write a text of random words: enough tokens for batches and vocabularies of plans.

    python tests/planning/random_words.py FILE

35 MB, 50,000 different words by Zipf's law: 6.4 M tokens of a vocabulary of 32,768.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
WORDS, DOCUMENT, COUNT = 50_000, 20_000, 6_000_000


def write(path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 8, WORDS)
    words = np.array(["".join(rng.choice(LETTERS, n)) for n in lengths])
    ranks = np.minimum(rng.zipf(1.15, COUNT) - 1, 10**9) % WORDS
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, COUNT, DOCUMENT):
            file.write(" ".join(words[ranks[start : start + DOCUMENT]]) + "\n\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
