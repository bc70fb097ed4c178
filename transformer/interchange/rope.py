"""Rotary positions as configurations have them: `rope_theta` and `rope_scaling` of
transformers 4, `rope_parameters` of 5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformer.interchange.config import Reader
from transformer.network import positions, rope_scales

LLAMA3 = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "length": "original_max_position_embeddings",
}
YARN = {
    "factor": "factor",
    "fast": "beta_fast",
    "slow": "beta_slow",
    "length": "original_max_position_embeddings",
    "truncate": "truncate",
    "amplitude": "attention_factor",
}
LENGTH = "original_max_position_embeddings"
KINDS = ("default", "linear", "llama3", "yarn")
# Whose frequencies change with the length of the row, beyond that of pretraining.
LIMITED = ("longrope", "dynamic")


class Rope(NamedTuple):
    """theta, and how frequencies are scaled. kind: `default`; `linear`, by `factor`;
    `llama3` and `yarn`, with the values of their tables above; `longrope` and
    `dynamic`, in rows of up to `length` tokens. short, long: factors of longrope in
    these, and beyond. claimed_length: of rows, as the configuration says."""

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True
    amplitude: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    claimed_length: int = 0

    @property
    def limit(self) -> int | None:
        """The most tokens of a row, where frequencies change beyond them."""
        return self.length if self.kind in LIMITED else None

    def rotate(self, features: int | None = None) -> positions.Rotate:
        """The function for the slot `rotate` of attention. features: rotated ones of a
        head, all if None."""
        if self.kind == "linear":
            interpolation: Any = {"interpolation": self.factor}
            return positions.rotary(
                theta=self.theta, features=features, **interpolation
            )
        scale = None
        if self.kind == "llama3":
            values = {name: getattr(self, name) for name in LLAMA3}
            scale = rope_scales.llama3_scale(**values)
        if self.kind == "yarn":
            values = {name: getattr(self, name) for name in YARN if name != "amplitude"}
            scale = rope_scales.yarn_scale(theta=self.theta, **values)
        if self.kind == "longrope":
            scale = rope_scales.division(self.short)
        return positions.rotary(
            theta=self.theta, scale=scale, features=features, amplitude=self.amplitude
        )


def read_rope(config: Reader, *, theta: float = 10_000.0) -> Rope:
    """The rope of a configuration in either dialect, of whole heads. theta: where it
    says none. ValueError where both are there and disagree, and for kinds that are not
    expressed here."""
    rope, share = read_partial_rope(config, default_theta=theta)
    if share not in (None, 1.0):
        raise ValueError(
            f"{config.where}: partial_rotary_factor: expected 1, got {share}"
        )
    return rope


def read_partial_rope(
    config: Reader,
    *,
    default_theta: float = 10_000.0,
    kinds: Sequence[str] = KINDS,
    length: int = 0,
) -> tuple[Rope, float | None]:
    """As `read_rope`, and the share of a head's features that turn, where it says.
    kinds: that the net expresses. length: of rows, for `LIMITED` ones."""
    new, old = config.get("rope_parameters", None), config.get("rope_scaling", None)
    theta = config.get("rope_theta", None)
    default: Any = {"default_theta": default_theta, "kinds": kinds, "length": length}
    found = []
    if new is not None:
        found.append(parse_rope(config, "rope_parameters", new, None, **default))
    if old is not None or theta is not None:
        found.append(parse_rope(config, "rope_scaling", old or {}, theta, **default))
    if len(set(found)) > 1:
        pairs = zip(Rope._fields, *found, strict=True)
        differ = ", ".join(f"{name} {a} and {b}" for name, a, b in pairs if a != b)
        raise ValueError(
            f"{config.where}: expected rope_parameters equal to rope_theta and "
            f"rope_scaling, got {differ}"
        )
    shares = [
        v["partial_rotary_factor"]
        for v in (new, old)
        if v and "partial_rotary_factor" in v
    ]
    return (found[0] if found else Rope(default_theta)), (shares[0] if shares else None)


def parse_rope(
    config: Reader,
    key: str,
    value: Any,
    theta: Any,
    *,
    default_theta: float = 10_000.0,
    kinds: Sequence[str] = KINDS,
    length: int = 0,
) -> Rope:
    """The rope of one object of a configuration, the value of `key`. theta: where that
    stands outside of it, or None. default_theta: where it stands nowhere. kinds,
    length: as in `read_partial_rope`."""
    if not isinstance(value, dict):
        raise config.error(key, "an object")
    inner = Reader(value, f"{config.where}: {key}")
    name = "rope_type" if value.get("rope_type") is not None else "type"
    kind = inner.get(name, "default")
    for key in ("rope_type", "type"):
        inner.only(key, kind)
    # The first name of longrope.
    kind = "longrope" if kind == "su" else kind
    if kind not in kinds:
        raise inner.error(name, f"{', '.join(kinds[:-1])} or {kinds[-1]}")
    if theta is None:
        theta = inner.positive("rope_theta", default_theta)
    elif "rope_theta" in value:
        raise inner.error("rope_theta", "none beside rope_theta outside")
    if type(theta) not in (int, float) or not 0 < theta < math.inf:
        raise config.error("rope_theta", "a number of more than 0")
    inner.number("partial_rotary_factor", 1.0)
    made = Rope(theta=float(theta), kind=kind)
    if kind not in ("default", "longrope"):
        made = made._replace(factor=inner.positive("factor"))
    if kind == "llama3":
        made = made._replace(
            low=inner.number(LLAMA3["low"]),
            high=inner.number(LLAMA3["high"]),
            length=inner.whole(LLAMA3["length"]),
        )
    if kind == "yarn":
        made = _read_yarn(inner, made)
    if kind == "longrope":
        made = _read_longrope(config, inner, made, length)
    if kind == "dynamic":
        made = made._replace(length=length, claimed_length=length)
    inner.finish(("rope_type",))
    return made


def _read_yarn(inner: Reader, rope: Rope) -> Rope:
    """`mscale` and `mscale_all_dim`, two ways to say the amplitude, are read but not
    written: `attention_factor` says it."""
    if rope.theta <= 1:
        raise inner.error("rope_theta", "a number of more than 1 for yarn")
    inner.positive("factor")
    amplitude = rope_scales.yarn_amplitude(rope.factor)
    scale, every = (inner.number(k, 0.0) for k in ("mscale", "mscale_all_dim"))
    if scale and every and rope.factor > 1:
        amplitude = ((amplitude - 1) * scale + 1) / ((amplitude - 1) * every + 1)
    return rope._replace(
        fast=inner.positive(YARN["fast"], 32.0),
        slow=inner.positive(YARN["slow"], 1.0),
        length=inner.whole(YARN["length"]),
        truncate=inner.flag(YARN["truncate"], True),
        amplitude=inner.number(YARN["amplitude"], amplitude),
    )


def _read_longrope(config: Reader, inner: Reader, rope: Rope, length: int) -> Rope:
    """The length of pretraining stands beside the rope in files of Phi 3, and in it in
    those of transformers 5. `factor`, of the lengths, is read but not written:
    `attention_factor` says what it is for."""
    first = config.get(LENGTH, inner.get(LENGTH, length))
    inner.only(LENGTH, first)
    if type(first) is not int or first < 2:
        raise config.error(LENGTH, "a whole number of at least 2")
    factor = inner.positive("factor", length / first)
    amplitude = rope_scales.longrope_amplitude(factor, first)
    return rope._replace(
        length=min(first, length),
        claimed_length=length,
        short=_read_factors(inner, "short_factor"),
        long=_read_factors(inner, "long_factor"),
        amplitude=inner.positive("attention_factor", amplitude),
    )


def _read_factors(inner: Reader, key: str) -> tuple[float, ...]:
    values = inner.get(key)
    is_list = isinstance(values, list) and all(
        type(one) in (int, float) and 0 < one < math.inf for one in values
    )
    if not is_list:
        raise inner.error(key, "a list of numbers of more than 0")
    return tuple(map(float, values))


def write_rope(rope: Rope) -> dict[str, Any]:
    """Both dialects: transformers 4 reads the old keys only, and would take theta
    10,000 in silence."""
    scaling: dict[str, Any] = {"rope_type": rope.kind}
    if rope.kind == "longrope":
        return _write_longrope(rope)
    if rope.kind in ("linear", "dynamic"):
        scaling["factor"] = rope.factor
    for kind, keys in (("llama3", LLAMA3), ("yarn", YARN)):
        if rope.kind == kind:
            scaling |= {theirs: getattr(rope, ours) for ours, theirs in keys.items()}
    old = None if rope.kind == "default" else dict(scaling)
    return {
        "rope_theta": rope.theta,
        "rope_scaling": old,
        "rope_parameters": scaling | {"rope_theta": rope.theta},
    }


def _write_longrope(rope: Rope) -> dict[str, Any]:
    """The old dialect without the amplitude, unless it is another than the lengths say:
    Phi 3 of transformers 4 takes three keys only."""
    factors = {"short_factor": list(rope.short), "long_factor": list(rope.long)}
    factor = rope.claimed_length / rope.length
    said = {"attention_factor": rope.amplitude}
    is_derived = rope.amplitude == rope_scales.longrope_amplitude(factor, rope.length)
    new = {"rope_type": rope.kind, "rope_theta": rope.theta, LENGTH: rope.length}
    return {
        LENGTH: rope.length,
        "rope_theta": rope.theta,
        "rope_scaling": {"type": rope.kind, **factors, **({} if is_derived else said)},
        "rope_parameters": {**new, **factors, **said},
    }
