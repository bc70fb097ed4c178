"""The chips that a run can be planned for, and topologies of them.

Sources: cloud.google.com/tpu/docs/v5e, v5p and v6e (peak bfloat16 FLOP/s, bandwidth of
the main memory, bidirectional bandwidth of the interconnect of a chip, bandwidth of the
data center network of a pod or a chip, chips of the largest slice); the memory that a
program has is what their compiler, libtpu, allows. NVIDIA's data sheets of A100 80 GB
SXM, H100 SXM and H200 SXM (dense bfloat16 FLOP/s, NVLink of both directions), with a
network of 400 Gbit/s for each GPU.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One chip, in bytes, bytes a second, and FLOP/s of bfloat16 products.

    memory: that a program can have. links: what all links of a torus, or NVLink, send
    together. axes: of the torus; 0 for GPUs. host: chips of one host. network: what one
    chip sends to another slice, or one GPU to another host.
    """

    name: str
    memory: float
    bandwidth: float
    flops: float
    links: float
    axes: int
    host: int
    network: float

    @property
    def is_tpu(self) -> bool:
        return self.axes > 0


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 15.75 * GIB, 819e9, 197e12, 200e9, axes=2, host=8, network=3.125e9),
        Chip("v5p", 95.74 * GIB, 2765e9, 459e12, 600e9, axes=3, host=4, network=6.25e9),
        Chip("v6e", 31.25 * GIB, 1638e9, 918e12, 400e9, axes=2, host=8, network=12.5e9),
        Chip("a100", 80 * GIB, 2039e9, 312e12, 300e9, 0, host=8, network=50e9),
        Chip("h100", 80 * GIB, 3350e9, 989e12, 450e9, 0, host=8, network=50e9),
        Chip("h200", 141e9, 4800e9, 989e12, 450e9, 0, host=8, network=50e9),
    )
}

# Chips of the largest slice.
LARGEST = {"v5e": 256, "v5p": 6144, "v6e": 256}


class Topology(NamedTuple):
    """Chips of one kind. shape: of the torus; of GPUs, their number. slices: of TPUs,
    each of this shape, which a data center network connects."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def slice_size(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        return self.slices * self.slice_size

    @property
    def hosts(self) -> int:
        """Those of a TPU slice with more chips than one host has have four each."""
        several = self.slice_size > self.chip.host
        each = 4 if several and self.chip.is_tpu else self.chip.host
        return self.slices * -(-self.slice_size // each)

    def __str__(self) -> str:
        times = f"{self.slices}x" if self.slices > 1 else ""
        return f"{times}{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def send_rate(self, group: int, span: int = 0) -> float:
        """Bytes a second that a chip sends in a collective of `group` chips.

        Of a torus, both links of each axis that the group spans, taken as the fewest
        axes, longest first, that hold it. Of a group of several slices, or of GPUs on
        several nodes: the network. span: as of `costs.Collective`.
        """
        if self._is_far(group, span):
            return self.chip.network
        if not self.chip.is_tpu:
            return self.chip.links
        spanned = max(len(self._lengths(group)), 1)
        return self.chip.links * spanned / self.chip.axes

    def hops(self, group: int, span: int = 0) -> float:
        """Links that a byte crosses in an all-to-all of `group` chips, in the mean: a
        quarter of each axis that the group spans, a ring; one where there is a switch.
        Arguments as of `send_rate`."""
        if self._is_far(group, span) or not self.chip.is_tpu:
            return 1.0
        total, left = 0.0, group
        for length in self._lengths(group):
            # Neighbors in one axis, or chips with others between them.
            total += (length if span > group else min(length, left)) / 4
            left = -(-left // length)
        return max(total, 1.0)

    def _is_far(self, group: int, span: int) -> bool:
        near = self.slice_size if self.chip.is_tpu else self.chip.host
        return max(group, span) > near

    def _lengths(self, group: int) -> list[int]:
        """Of the axes of the torus that a group spans."""
        held, spanned = 1, []
        for length in sorted(self.shape, reverse=True):
            if held < group and length > 1:
                held *= length
                spanned.append(length)
        return spanned


def parse(text: str) -> Topology:
    """The topology of a text such as v5e:16x16, 2xv5e:16x16 (two slices), v5p:8x8x8 or
    h100:64. ValueError for another chip or form."""
    number = r"[1-9]\d{0,4}"
    form = rf"(?:({number})x)?([a-z]\w*):({number}(?:x{number})*)"
    match = re.fullmatch(form, text, re.ASCII)
    chip = CHIPS.get(match.group(2)) if match else None
    if match is None or chip is None:
        raise ValueError(
            f"--topology: expected CHIP:SHAPE with one of {', '.join(CHIPS)}, such as "
            f"v5e:16x16, 2xv5e:16x16 for two slices, v5p:8x8x8 or h100:64; got {text!r}"
        )
    slices, name, lengths = int(match.group(1) or 1), match.group(2), match.group(3)
    if slices > 1 and not chip.is_tpu:
        raise ValueError(
            f"--topology: expected slices of TPUs, got {slices} of {name} in {text!r}"
        )
    shape = tuple(map(int, lengths.split("x")))
    axes = chip.axes or 1
    if len(shape) != axes:
        raise ValueError(
            f"--topology: expected {axes} lengths for {name}, got {len(shape)} in "
            f"{text!r}"
        )
    if math.prod(shape) > LARGEST.get(name, math.inf):
        raise ValueError(
            f"--topology: expected at most {LARGEST[name]} chips in a slice of {name}, "
            f"or several slices, as 2x{name}:..., got {math.prod(shape)} in {text!r}"
        )
    return Topology(chip, shape, slices)
