"""A whole folder of Marian: random weights of the fixture's sizes, with the tokenizer
of the other fixture, whose vocabulary is larger."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.interchange import folder, marian_tokenizer
from transformer.interchange.architectures.encoder_decoders import SIDES

FIXTURES = Path(__file__).parent / "interchange" / "fixtures"
TOKENIZER = FIXTURES / "tokenizers" / "marian"
NAMES = (
    *(marian_tokenizer.SOURCE, marian_tokenizer.TARGET, marian_tokenizer.VOCAB),
    marian_tokenizer.SETTINGS,
)


def write(path: Path, **generation: Any) -> Path:
    """The folder `path`. generation: further keys of generation_config.json."""
    vocab = json.loads((TOKENIZER / marian_tokenizer.VOCAB).read_text())
    made, sizes = folder.read_config(FIXTURES / "marian")
    stacks = {side: getattr(sizes, side)._replace(depth=1) for side in SIDES}
    sizes = sizes._replace(vocab_size=len(vocab), **stacks)
    shapes = jax.eval_shape(lambda: made.init(made.net(sizes), jax.random.key(0)))
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        mean, stddev = (1, 0.1) if "gain" in str(path[-1]) else (0, 0.4)
        return rng.normal(mean, stddev, leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    params["b_V"] *= 0.1
    # The most likely token, unless it is excluded.
    params["b_V"][vocab["<pad>"]] = 100
    tokens: dict[str, Any] = {"eos_token_id": vocab["</s>"]}
    tokens["pad_token_id"] = tokens["decoder_start_token_id"] = vocab["<pad>"]
    words = {"bad_words_ids": [[vocab["<pad>"]]], **generation}
    ends = {"forced_eos_token_id": vocab["</s>"], **words}
    text = json.dumps({**tokens, **ends}).encode()
    files = {name: (TOKENIZER / name).read_bytes() for name in NAMES}
    companions = {**files, "generation_config.json": text}
    options: Any = {"companions": companions, "token_ids": tokens}
    folder.write_folder(path, made, sizes, params, **options)
    return path


def copy_tokenizer(path: Path) -> Path:
    """The tokenizer alone."""
    path.mkdir()
    for name in NAMES:
        shutil.copy(TOKENIZER / name, path)
    return path
