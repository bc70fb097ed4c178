"""A language model of a folder of Hugging Face, ours beside transformers', alternating.

    pip install -e '.[reference,narrow]'
    python -m benchmarks.pretrained FOLDER [--dtype=float32] [--rounds=5]
    python -m benchmarks.pretrained FOLDER --contenders=ours,ours-bfloat16,ours-int8

Each is one process: it loads the model, passes prompts of 128 tokens (prefill), and
decodes 32 more tokens greedily with a cache, of 1 and of 8 texts. Compilation is not
timed. In float32 both must decode the same tokens. The memory-bandwidth limit of
decoding one text: a token must read every weight and the cache once. transformers
decodes by calling its model with its own cache, without the costs of `generate`. With
ours-bfloat16 and ours-int8 the weights are narrow and the rest is float32.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.contender import Contender, answer, bandwidth

OURS, THEIRS = "ours", "transformers"
# Contender: dtype of the weights.
NARROW = {"ours-bfloat16": "bfloat16", "ours-int8": "int8"}
PROMPT, NEW_TOKENS, ROWS = 128, 32, (1, 8)


class Timing(NamedTuple):
    """Seconds of the prompts and of the tokens after them; the tokens [rows, new]."""

    prefill: float
    decode: float
    ids: np.ndarray


# (rows) -> Timing.
Generate = Callable[[int], Timing]


def prompts(rows: int, vocab_size: int) -> np.ndarray:
    """Random prompts, the same for all."""
    return np.random.default_rng(rows).integers(3, vocab_size, (rows, PROMPT))


def load_ours(folder: Path, dtype: str, weights_dtype: str | None = None) -> Generate:
    from transformer import cpu_tuning

    cpu_tuning.tune()
    from functools import partial

    import jax

    import transformer
    from transformer.generation import decoding, logit_filters

    model = transformer.load(folder)
    jax.block_until_ready(model.params)
    fns = decoding.decode_fns(model.net, dtype)
    fns = decoding.narrow(fns, weights_dtype) if weights_dtype else fns
    weights = decoding.cast_weights(fns, model.params)
    prefill = jax.jit(partial(decoding.prefill, fns, new_tokens=NEW_TOKENS))
    unrolled = fns.unroll() if fns.unroll else fns
    choose = logit_filters.greedy
    decode = jax.jit(
        partial(decoding.decode, unrolled, choose=choose), donate_argnums=1
    )
    # By whether they are widened, which those of one text are.
    own: dict[bool, Any] = {}

    def generate(rows: int) -> Timing:
        ids_BL = prompts(rows, model.sizes.vocab_size).astype(np.int32)
        start = time.perf_counter()
        length_B = np.full(rows, PROMPT, np.int32)
        state = prefill(weights, ids_BL, length_B, jax.random.key(0))
        jax.block_until_ready(state)
        filled = time.perf_counter()
        wide, state = decoding.float32_on_cpu(weights, state)
        _, layers, state = decoding.unroll_layers_on_cpu(fns, wide, state)
        layers = own.setdefault(rows == 1 and dtype != "float32", layers)
        jax.block_until_ready((layers, state))
        begin = time.perf_counter()
        state = jax.block_until_ready(decode(layers, state, tokens=NEW_TOKENS))
        seconds = filled - start, time.perf_counter() - begin
        return Timing(*seconds, np.asarray(state.ids_BL)[:, PROMPT:])

    return generate


def load_theirs(folder: Path, dtype: str) -> Generate:
    import torch
    import transformers

    load = transformers.AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def generate(rows: int) -> Timing:
        ids = torch.from_numpy(prompts(rows, model.config.vocab_size))
        start = time.perf_counter()
        found = model(ids, use_cache=True, logits_to_keep=1)
        last = found.logits[:, -1:].argmax(-1)
        filled, tokens = time.perf_counter(), []
        for _ in range(NEW_TOKENS):
            tokens.append(last)
            found = model(last, past_key_values=found.past_key_values, use_cache=True)
            last = found.logits.argmax(-1)
        seconds = filled - start, time.perf_counter() - filled
        return Timing(*seconds, torch.cat(tokens, 1).numpy())

    return generate


def work(name: str, folder: Path, dtype: str) -> None:
    """Load at the first line; a timing for each further number of texts, none for 0.
    All answers have the peak of memory until then."""
    sys.stdin.readline()
    start = time.perf_counter()
    if name == THEIRS:
        generate = load_theirs(folder, dtype)
    else:
        generate = load_ours(folder, dtype, NARROW.get(name))
    answer(seconds=time.perf_counter() - start, mebibytes=peak_mebibytes())
    for line in sys.stdin:
        found = generate(int(line))._asdict() if int(line) else {"ids": np.array(0)}
        ids = found.pop("ids").tolist()
        answer(ids=ids, mebibytes=peak_mebibytes(), **found)


def peak_mebibytes() -> float:
    """The most memory that this process had, with pages of files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes of the tensors in `dtype`."""
    from transformer.interchange import tensor_files

    tensors = tensor_files.open_tensors(folder).values()
    each = 4 if dtype == "float32" else 2
    return each * sum(int(np.prod(tensor.shape)) for tensor in tensors)


def race(contenders: list[Contender], rounds: int) -> dict[Any, np.ndarray]:
    """Tokens a second by (contender, rows, prefill or decode), one of each round."""
    found: dict[Any, list[float]] = {}
    for turn in range(rounds + 1):
        for rows in ROWS:
            ids = []
            for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
                timing = contender.ask(str(rows))
                ids.append(timing["ids"])
                for part, tokens in (("prefill", PROMPT), ("decode", NEW_TOKENS)):
                    rate = rows * tokens / timing[part]
                    found.setdefault((contender.name, rows, part), []).append(rate)
            for contender, other in zip(contenders, ids, strict=True):
                if turn == 0 and contender is not contenders[0]:
                    same = np.mean(np.array(ids[0]) == np.array(other))
                    pair = f"{contenders[0].name} and {contender.name}"
                    print(f"{rows} texts, {pair}: {same:.0%} equal tokens", flush=True)
    # The first round compiles.
    return {key: np.array(rates[1:]) for key, rates in found.items()}


def report(rows: int, part: str, rates: dict[str, np.ndarray]) -> None:
    """Print the median rates, and the ratios of the others and the first one."""
    (first, baseline), *others = rates.items()
    medians = [f"{name} {np.median(rate):.1f}" for name, rate in rates.items()]
    print(f"{rows} texts, {part}, tokens/s: {', '.join(medians)}")
    for name, rate in others:
        faster, slower = (rate, baseline) if name in NARROW else (baseline, rate)
        pair = f"{name} / {first}" if name in NARROW else f"{first} / {name}"
        low, middle, high = np.percentile(faster / slower, [25, 50, 75])
        print(f"    {pair} {middle:.2f} ({low:.2f} - {high:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default=f"{OURS},{THEIRS}")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder, dtype = arguments.folder, arguments.dtype
    if arguments.worker:
        return work(arguments.worker, folder, dtype)
    flags = [str(folder), f"--dtype={dtype}"]
    names = arguments.contenders.split(",")
    if unknown := set(names) - {OURS, THEIRS, *NARROW}:
        parser.error(f"--contenders: got {', '.join(sorted(unknown))}")
    contenders = [Contender("pretrained", name, flags) for name in names]
    try:
        for contender in contenders:
            loaded = contender.ask("load")
            seconds, peak = loaded["seconds"], loaded["mebibytes"]
            where = f"{contender.name:14} imported and loaded in {seconds:.1f} s"
            print(f"{where}, peak {peak:,.0f} MiB", flush=True)
        found = race(contenders, arguments.rounds)
        for contender in contenders:
            peak = contender.ask("0")["mebibytes"]
            print(f"{contender.name:14} peak {peak:,.0f} MiB at the end")
    finally:
        for contender in contenders:
            contender.close()
    limit = bandwidth() / weight_bytes(folder, dtype)
    print(f"memory-bandwidth limit of one text: {limit:.1f} tokens/s")
    for rows in ROWS:
        for part in ("prefill", "decode"):
            report(rows, part, {name: found[name, rows, part] for name in names})


if __name__ == "__main__":
    main()
