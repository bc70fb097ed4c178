"""A net of ours as an architecture of another library, if each of its slots is one of
that architecture's: then its parameters are exported as they are.

The candidates are decoders of Llama's family. Slots that do not change the function
(initialization, kernels) are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from transformer.data.text.tokenizers import Tokenizer
from transformer.interchange import export
from transformer.interchange.architectures import decoders, llama
from transformer.interchange.export import Exportable
from transformer.interchange.rope import Rope
from transformer.models import decoder

END = "<|end|>"
FAMILY = ("llama", "qwen3", "olmo2")
# They change where parameters begin, or how fast a function is computed.
IRRELEVANT = frozenset(
    """parent name weight_init output_init einsum implementation kernel remat
    make_stack make_block""".split()
)
POINTS = np.linspace(-4, 4, 33)


def find(net: Any, tokenizer: Tokenizer, *, length: int) -> Exportable:
    """What `net` is exported as. length: of its rows. ValueError, which names the slots
    that differ from those of the nearest architecture, where it equals none."""
    if not isinstance(net, decoder.Decoder):
        raise ValueError(f"export: expected a decoder, got {type(net).__name__}")
    guesses = [guess_sizes(net, kind, length) for kind in FAMILY]
    found = [differences(net, llama.net(sizes)) for sizes in guesses]
    sizes, lines = min(zip(guesses, found, strict=True), key=lambda one: len(one[1]))
    if lines:
        raise ValueError(
            "export: expected the slots of an architecture of another library; those "
            f"of {llama.CLASSES[sizes.model_type]} differ in {'; '.join(lines)}"
        )
    files, ends = tokenizer_files(tokenizer), {"eos_token_id": tokenizer.end}
    return Exportable(llama.ARCHITECTURE, sizes, files, ends)


def guess_sizes(net: decoder.Decoder, kind: str, length: int) -> llama.Sizes:
    """The sizes of the Llama-like net that is nearest to `net`."""
    stack: Any = net.make_stack()
    block = stack.make_block(stack.block, 0)
    attention, mlp = block.make_attention(), block.make_mlp()
    rotate = getattr(attention.rotate, "keywords", {})
    features = attention.head_features
    return llama.Sizes(
        model_type=kind,
        vocab_size=net.vocab_size,
        width=net.width,
        hidden_features=getattr(mlp, "hidden_features", 1),
        depth=stack.depth,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_features=features,
        rotated=rotate.get("features") or features,
        length=length,
        epsilon=getattr(block.make_norm(), "epsilon", 1e-6),
        activation=_activation(getattr(mlp, "activation", None)),
        rope=Rope(theta=rotate.get("theta", 10_000.0)),
        tied=net.unembed is decoder.tied_unembedding,
        window=None,
    )


def _activation(function: Callable[..., Any] | None) -> str:
    """The name of an activation, by its values; silu for one that has no name."""
    for name, known in decoders.ACTIVATIONS.items():
        if function is not None and _equal_values(function, known):
            return name
    return "silu"


def _equal_values(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    points = jnp.asarray(POINTS, jnp.float32)[None, None]
    return bool(np.allclose(a(points), b(points), atol=1e-6))


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """A line for each slot of two modules, not bound to parameters, that differs."""
    if type(ours) is not type(theirs):
        return [f"{where.strip('.')} ({_name(ours)}, not {_name(theirs)})"]
    lines = []
    if isinstance(ours, decoder.Decoder):
        lines += differences(_first_block(ours), _first_block(theirs), f"{where}block.")
    for name in ours.__dataclass_fields__:
        a, b = getattr(ours, name), getattr(theirs, name)
        if name in IRRELEVANT or a is b:
            continue
        if name == "make_attention_norm":  # The same as make_norm where it is None.
            a, b = a or ours.make_norm, b or theirs.make_norm
        makes = name.startswith("make_") and name != "make_bias"
        if makes or name == "head_norm":
            lines += differences(a(), b(), f"{where}{name}.")
        elif not _same_value(name, a, b):
            lines.append(f"{where}{name} ({_name(a)}, not {_name(b)})")
    return lines


def _first_block(net: decoder.Decoder) -> nn.Module:
    stack: Any = net.make_stack()
    return stack.make_block(stack.block, 0)


def _same_value(name: str, a: Any, b: Any) -> bool:
    if name == "activation":
        return _equal_values(a, b)
    if isinstance(a, partial) and isinstance(b, partial):
        return a.func is b.func and a.args == b.args and a.keywords == b.keywords
    return bool(a == b)


def _name(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    inner = value.func if isinstance(value, partial) else value
    return getattr(inner, "__name__", repr(value)).strip("_")


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """`tokenizer.json` and its configuration in the form of transformers, for a BPE;
    none for bytes and characters, which it does not have."""
    if tokenizer.kind != "bpe":
        print(f"no tokenizer.json: transformers has none of {tokenizer.kind}")
        return {}
    content = json.loads(json.dumps(tokenizer.data["model"]))
    end = {"id": tokenizer.end, "content": END, "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] = [{**end, **flags}]
    content["decoder"] = {
        "type": "ByteLevel",
        **{"add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(config, indent=1).encode(),
    }


def language_model(
    *, depth: int, vocab_size: int, width: int, heads: int, kv_heads: int
) -> decoder.Decoder:
    """A decoder for the slot `model` of `experiments.language_model` that is exported:
    Qwen 3 of these sizes, untied."""
    return llama.net(
        llama.Sizes(
            model_type="qwen3",
            vocab_size=vocab_size,
            width=width,
            hidden_features=width * 8 // 3 // 32 * 32,
            depth=depth,
            heads=heads,
            kv_heads=kv_heads,
            head_features=width // heads,
            rotated=width // heads,
            length=2048,
            epsilon=1e-6,
            activation="silu",
            rope=Rope(),
            tied=False,
            window=None,
        )
    )


def export_net(
    params: Any,
    workdir: Path,
    *,
    net: Any,
    tokenizer: Tokenizer,
    length: int,
    **how: Any,
) -> Path:
    """`export.export` of what `find` finds. how: its keywords."""
    return export.export(find(net, tokenizer, length=length), params, workdir, **how)
