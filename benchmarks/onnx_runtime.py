"""The logits of whole rows, by our net beside its ONNX export in ONNX Runtime,
alternating.

    pip install onnxruntime
    python -m benchmarks.onnx_runtime FOLDER [--rounds=5]

FOLDER is an export with forward.onnx (`export --format=onnx`). Each is one process, of
as many threads as the machine has cores; compilation is not timed. float32, rows of 128
tokens; both return all logits, which must agree.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contender import Contender, answer

OURS, THEIRS = "ours", "ONNX Runtime"
TOKENS, ROWS = 128, (1, 8)
FILE = "forward.onnx"

# ids_BL -> logits_BLV, on the host.
Forward = Callable[[np.ndarray], np.ndarray]


def load_ours(folder: Path) -> Forward:
    from transformer import cpu_tuning

    cpu_tuning.tune()
    import jax

    import transformer
    from transformer.models import decoder
    from transformer.network import masks

    model = transformer.load(folder)

    @jax.jit
    def forward(params, ids_BL):
        tokens = masks.single_document(ids_BL.shape[1])
        return decoder.logits(model.net.apply({"params": params}, ids_BL, tokens))

    return lambda ids_BL: np.asarray(forward(model.params, ids_BL))


def load_theirs(folder: Path) -> Forward:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    path = str(folder / FILE)
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda ids_BL: session.run(None, {"input_ids": ids_BL})[0]


def work(name: str, folder: Path) -> None:
    """Load at the first line; the seconds of a call for each further number of rows,
    and some of its logits."""
    sys.stdin.readline()
    start = time.perf_counter()
    forward = (load_ours if name == OURS else load_theirs)(folder)
    answer(seconds=time.perf_counter() - start)
    for line in sys.stdin:
        rows = int(line)
        ids_BL = np.random.default_rng(rows).integers(3, 100, (rows, TOKENS))
        start = time.perf_counter()
        logits_BLV = forward(ids_BL.astype(np.int32))
        seconds = time.perf_counter() - start
        answer(seconds=seconds, logits=logits_BLV[:, -1, :50].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.worker:
        return work(arguments.worker, folder)
    if not (folder / FILE).is_file():
        raise SystemExit(f"{folder}: expected a folder with {FILE}, got none")
    contenders = [
        Contender("onnx_runtime", name, [str(folder)]) for name in (OURS, THEIRS)
    ]
    try:
        for contender in contenders:
            seconds = contender.ask("load")["seconds"]
            print(f"{contender.name:12} imported and loaded in {seconds:.1f} s")
        race(contenders, arguments.rounds)
    finally:
        for contender in contenders:
            contender.close()


def race(contenders: list[Contender], rounds: int) -> None:
    """Print tokens a second of each, and their ratio in each round."""
    for rows in ROWS:
        found: dict[str, list[float]] = {}
        logits = []
        for turn in range(rounds + 1):
            for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
                timing = contender.ask(str(rows))
                found.setdefault(contender.name, []).append(timing["seconds"])
                logits.append(timing["logits"])
        difference = np.abs(np.array(logits[0]) - np.array(logits[1])).max()
        spread = np.std(logits[0])
        # The first round compiles.
        ours, theirs = (np.array(found[name][1:]) for name in (OURS, THEIRS))
        low, middle, high = np.percentile(theirs / ours, [25, 50, 75])
        tokens = rows * TOKENS
        print(
            f"{rows} rows of {TOKENS}: ours {tokens / np.median(ours):.0f} tokens/s, "
            f"ONNX Runtime {tokens / np.median(theirs):.0f}; ours / theirs "
            f"{middle:.2f} ({low:.2f} - {high:.2f}); logits differ by "
            f"{difference / spread:.1e} of their spread",
            flush=True,
        )


if __name__ == "__main__":
    main()
