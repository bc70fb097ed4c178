"""How fast `python -m transformer prepare` encodes, and its peak memory: in one process
and in several, on two sizes of a corpus.

    python -m benchmarks.prepare [--megabytes=50,200] [--workers=1,2] [--folder=FOLDER]

The corpus repeats the shipped novels in JSON lines of a chapter's paragraphs, each with
another number before it, in files of 8 MB; the BPE of 8,192 tokens is made before.
Tokens a second of CPU time count the whole command. Memory is the proportional set size
of all processes of the command, sampled 5 times a second: pages that several processes
share count once.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformer.data.shipped import files

FILE_BYTES, DOCUMENT_CHARACTERS = 8_000_000, 3000
VOCAB_SIZE = 8192


def documents() -> list[str]:
    """The novels, in pieces of whole paragraphs."""
    found, pending = [], ""
    for _, novel in files.documents("austen", "train"):
        for paragraph in novel.split("\n\n"):
            pending += paragraph + "\n\n"
            if len(pending) >= DOCUMENT_CHARACTERS:
                found.append(pending)
                pending = ""
    return found


def write_corpus(folder: Path, size: int) -> None:
    """JSON lines of about so many bytes, of which no two are equal."""
    folder.mkdir(parents=True)
    texts, number = documents(), 0
    while size > 0:
        lines, left = [], min(FILE_BYTES, size)
        while left > 0:
            text = f"{number}. {texts[number % len(texts)]}"
            lines.append(json.dumps({"text": text}) + "\n")
            left -= len(lines[-1])
            size -= len(lines[-1])
            number += 1
        (folder / f"{number:09d}.jsonl").write_text("".join(lines))


def _processes(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended.
        parents[int(status.parent.name)] = int(fields[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def _memory(root: int) -> int:
    """Proportional set size in bytes of a process and all below it."""
    total = 0
    for process in _processes(root):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
        total += 1024 * int(found[1]) if found else 0
    return total


def prepare(source: Path, folder: Path, tokenizer: str, workers: int) -> list[float]:
    """Tokens a second while encoding, tokens a second of CPU time of all processes,
    peak memory in bytes, and seconds in all."""
    argv = ["-m", "transformer", "prepare", str(source), f"--folder={folder}"]
    argv += [f"--workers={workers}", f"--tokenizer={tokenizer}"]
    argv += [f"--vocab_size={VOCAB_SIZE}"] * (tokenizer == "bpe")
    start, peak, before = time.monotonic(), 0, _cpu_seconds()
    process = subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.2)
    output = process.communicate()[0]
    found = re.search(r"encoded ([\d,]+) tokens in .*?, ([\d,]+) a second", output)
    if process.returncode or found is None:
        raise SystemExit(output)
    tokens, rate = (float(number.replace(",", "")) for number in found.groups())
    cpu = _cpu_seconds() - before
    return [rate, tokens / cpu, peak, time.monotonic() - start]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--megabytes", default="50,200")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as scratch:
        root = Path(scratch)
        write_corpus(root / "novels", 4_000_000)
        prepare(root / "novels", root / "tokenizer", "bpe", 1)
        print("| corpus, MB | processes | tokens/s | tokens/s of CPU | MB | seconds |")
        print("|---|---|---|---|---|---|")
        for size in map(int, flags.megabytes.split(",")):
            corpus = root / f"corpus{size}"
            write_corpus(corpus, size * 1_000_000)
            for workers in map(int, flags.workers.split(",")):
                folder = root / f"{size}-{workers}"
                found = prepare(corpus, folder, str(root / "tokenizer"), workers)
                rate, of_cpu, peak, seconds = found
                print(
                    f"| {size} | {workers} | {rate:,.0f} | {of_cpu:,.0f} | "
                    f"{peak / 1e6:,.0f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
