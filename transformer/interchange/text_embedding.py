"""Vectors of texts: the features of a text encoder, pooled (sentence-transformers,
Reimers and Gurevych 2019, arXiv 1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import storage
from transformer.data.notices import print_once
from transformer.interchange import tensor_files, text_rows
from transformer.interchange.text_rows import TextRows
from transformer.models import clip, encoder
from transformer.network import masks

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
SETTINGS = "config_sentence_transformers.json"
# Keys of sentence-transformers.
MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
POOLS = {"mean": encoder.mean_pooling, "cls": encoder.first_token}
# The net's: of an encoder of CLIP or SigLIP.
OWN = "its own"


class Pooling(NamedTuple):
    """How features become a vector: one of `POOLS`, or `OWN`. normalize: to length 1.
    prompt: put before each text."""

    mode: str
    normalize: bool
    prompt: str = ""


def read_pooling(folder: Path) -> Pooling | None:
    """What the folder of sentence-transformers says; None where it is no such folder.
    ValueError for modules that are not expressed here."""
    if not (folder / MODULES).is_file():
        return None
    try:
        modules = storage.parse_json((folder / MODULES).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / MODULES}: expected JSON, got {error}") from None
    kinds = [
        str(one.get("type")).rpartition(".")[2] if isinstance(one, dict) else str(one)
        for one in (modules if isinstance(modules, list) else [modules])
    ]
    if kinds not in (
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        raise ValueError(
            f"{folder / MODULES}: expected Transformer, Pooling and perhaps Normalize, "
            f"got {', '.join(kinds)[:80] or 'none'}"
        )
    config = tensor_files.read_json_file(folder / POOLING)
    # Version 5 names one, older ones have a key for each.
    modes = {k for k, name in MODES.items() if config.get("pooling_mode") == name} | {
        k for k, v in config.items() if k.startswith("pooling_mode_") and v is True
    }
    if len(modes) != 1 or not modes <= set(MODES):
        raise ValueError(
            f"{folder / POOLING}: expected one of {', '.join(MODES)}, got "
            f"{', '.join(sorted(modes)) or 'none'}"
        )
    prompt = read_prompt(folder)
    if prompt and config.get("include_prompt", True) is not True:
        raise ValueError(
            f"{folder / POOLING}: include_prompt: expected true, got "
            f"{str(config['include_prompt'])[:60]}"
        )
    return Pooling(MODES[modes.pop()], "Normalize" in kinds, prompt)


def read_prompt(folder: Path) -> str:
    """The text that a folder of sentence-transformers puts before each text, its
    default prompt; empty where it says none. ValueError for one that it has not."""
    if not (folder / SETTINGS).is_file():
        return ""
    settings = tensor_files.read_json_file(folder / SETTINGS)
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prompt, str):
        raise ValueError(
            f"{folder / SETTINGS}: default_prompt_name: expected the name of a prompt, "
            f"got {str(name)[:60]!r}"
        )
    return prompt


def own_pooling(folder: Path, mode: str | None, normalize: bool) -> Pooling:
    """The pooling of an encoder that has one which it was trained with. ValueError for
    another."""
    if mode is not None:
        raise ValueError(
            f"{folder}: expected no pooling, as the model has its own, got {mode}"
        )
    return Pooling(OWN, normalize)


def choose_pooling(folder: Path, mode: str | None, normalize: bool) -> Pooling:
    """The pooling of the folder, or of the flags; the mean, which a printed line says,
    where neither says one."""
    found = read_pooling(folder)
    if mode is None and found is None:
        print_once(
            f"{folder}: no {MODULES} says a pooling: the mean of the tokens; "
            "--pooling=cls takes the first token"
        )
    if found is None:
        return Pooling(mode or "mean", normalize)
    if found.prompt:
        print_once(f"{folder}: {found.prompt!r} is put before each text")
    chosen = {"mode": mode or found.mode, "normalize": normalize or found.normalize}
    return found._replace(**chosen)


def embed(
    net: Any,
    params: Any,
    rows: TextRows,
    texts: Sequence[str],
    pooling: Pooling,
    *,
    whole: bool = False,
) -> np.ndarray:
    """Vectors [N, D] of texts, float32; each is that of the text alone. net: an
    encoder of (ids, tokens), or one with the method `features`. whole: as in
    `text_rows.batches`."""
    is_own = pooling.mode == OWN
    method = "features" if hasattr(net, "features") and not is_own else None

    @jax.jit
    def apply(params: Any, ids_BL: jax.Array, segment_BL: jax.Array) -> jax.Array:
        index_BL = jnp.arange(ids_BL.shape[1], dtype=jnp.int32)[None]
        tokens = masks.packed(segment_BL, index_BL)
        made: Any = net.apply({"params": params}, ids_BL, tokens, method=method)
        x_BD = made if is_own else POOLS[pooling.mode](made, tokens)
        return clip.unit_length(x_BD) if pooling.normalize else x_BD

    texts = [pooling.prompt + text for text in texts]
    return text_rows.map_batches(
        rows, texts, lambda *batch: apply(params, *batch), whole=whole
    )


def cosines(vectors: np.ndarray) -> np.ndarray:
    """The cosine of each pair, [N, N]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return unit @ unit.T
