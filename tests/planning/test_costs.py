"""The costs read from compiled programs equal those counted by hand."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.planning.make_programs import HIDDEN, LAYERS, ROWS, WIDTH
from transformer import axes
from transformer.planning import costs, hlo

CHIPS = 8
PROGRAMS = Path(__file__).parent / "programs"


def costs_of(function: Any, *arguments: jax.ShapeDtypeStruct) -> costs.Costs:
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return costs.of_program(hlo.parse(text))


def abstract(shape: tuple, sharding: NamedSharding | None = None) -> Any:
    return jax.ShapeDtypeStruct(shape, "float32", sharding=sharding)


def test_products_in_a_loop_count_as_often_as_it_runs() -> None:
    """XLA's own count takes the body once."""

    def layers(x_BD: jax.Array, w_NDD: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x_BD, w_NDD)[0]

    got = costs_of(layers, abstract((16, 64)), abstract((5, 64, 64)))
    assert got.flops == 5 * 2 * 16 * 64 * 64
    assert got.unknown_loops == 0
    assert got.collectives == ()


def test_a_counter_may_rise_by_more_than_one() -> None:
    """0, 2, 4, 6 are below 7. libtpu's loops do not say how often they run."""

    def loop(x_BD: jax.Array, w_DD: jax.Array) -> jax.Array:
        def body(carry: tuple) -> tuple:
            number, x_BD = carry
            return number + 2, jnp.tanh(x_BD @ w_DD)

        return jax.lax.while_loop(lambda c: c[0] < 7, body, (jnp.int32(0), x_BD))[1]

    arguments = abstract((16, 64)), abstract((64, 64))
    text = jax.jit(loop).lower(*arguments).compile().as_text() or ""
    got = costs.of_program(hlo.parse(re.sub(r'"known_trip_count":{[^}]*},?', "", text)))
    assert got.flops == 4 * 2 * 16 * 64 * 64
    assert got.unknown_loops == 0


WRAPPED = """HloModule wrapped
%add (p: s32[], q: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %sum = s32[] add(%p, %q)
}
%less (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(1)
  %b = s32[] parameter(0)
  ROOT %lt = pred[] compare(%b, %a), direction=LT
}
%body (x: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %x = (s32[], f32[4,4]) parameter(0)
  %i = s32[] get-tuple-element(%x), index=0
  %m = f32[4,4] get-tuple-element(%x), index=1
  %two = s32[] constant(2)
  %next = s32[] fusion(%i, %two), kind=kLoop, calls=%add
  %dot = f32[4,4] dot(%m, %m), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %both = (s32[], f32[4,4]) tuple(%next, %dot)
}
%condition (y: (s32[], f32[4,4])) -> pred[] {
  %y = (s32[], f32[4,4]) parameter(0)
  %j = s32[] get-tuple-element(%y), index=0
  %end = s32[] constant(7)
  ROOT %test = pred[] fusion(%j, %end), kind=kLoop, calls=%less
}
ENTRY %main (m0: f32[4,4]) -> (s32[], f32[4,4]) {
  %m0 = f32[4,4] parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,4]) tuple(%zero, %m0)
  ROOT %loop = (s32[], f32[4,4]) while(%start), condition=%condition, body=%body
}
"""


def test_a_counter_may_be_wrapped_in_a_fusion() -> None:
    """As XLA of a CPU writes it; operands may come in another order."""
    got = costs.of_program(hlo.parse(WRAPPED))
    assert (got.flops, got.unknown_loops) == (4 * 2 * 4**3, 0)


def test_padding_of_a_convolution_is_not_multiplied() -> None:
    """Counted by hand: a window of three over 10 positions, one of padding at each
    end, meets 28 inputs; with stride 2, 14."""

    def count(attributes: str, outputs: int) -> float:
        computation = {
            name: hlo.Instruction(
                name, "parameter", (hlo.Array("f32", shape),), (), "", False
            )
            for name, shape in {"x": (7, 10, 4), "w": (3, 4, 6)}.items()
        }
        result = hlo.Array("f32", (7, outputs, 6))
        one = hlo.Instruction(
            "c", "convolution", (result,), ("x", "w"), attributes, False
        )
        return costs.product_flops(one, computation)

    labels = "dim_labels=b0f_0io->b0f"
    assert count(f"window={{size=3 pad=1_1}}, {labels}", 10) == 2 * 7 * 6 * 4 * 28
    strided = f"window={{size=3 stride=2 pad=1_0}}, {labels}"
    assert count(strided, 5) == 2 * 7 * 6 * 4 * 14
    # A product that a TPU writes as a dilated convolution: each output meets one tap.
    dilated = f"window={{size=3 stride=1 pad=2_2 lhs_dilate=3}}, {labels}"
    assert count(dilated, 30) == 2 * 7 * 6 * 4 * 30


def test_collectives_of_a_sharded_program() -> None:
    """A product over a divided width all-reduces its result; a divided weight is
    gathered."""
    mesh = axes.make_mesh(fsdp=CHIPS)
    divided = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())

    product = jax.jit(lambda a, b: a @ b, out_shardings=whole)
    text = product.lower(abstract((32, 64), divided), abstract((64, 48), rows))
    (one,) = costs.of_program(hlo.parse(text.compile().as_text())).collectives
    assert one[:4] == ("all-reduce", 32 * 48 * 4, CHIPS, 1)
    assert one.traffic == 2 * 7 / 8 * 32 * 48 * 4

    gather = jax.jit(lambda w: 2 * w, out_shardings=whole)
    text = gather.lower(abstract((64, 48), rows)).compile().as_text()
    (one,) = costs.of_program(hlo.parse(text)).collectives
    assert one[:4] == ("all-gather", 64 * 48 * 4, CHIPS, 1)
    assert one.traffic == 7 / 8 * 64 * 48 * 4


@pytest.fixture(scope="module")
def fsdp() -> hlo.Program:
    text = gzip.decompress((PROGRAMS / "fsdp_v5e.txt.gz").read_bytes()).decode()
    return hlo.parse(text)


def test_products_that_a_tpu_compiles(fsdp: hlo.Program) -> None:
    """Two maps a layer, each once forward and twice backward, on the rows of a chip."""
    each = 2 * ROWS // CHIPS * WIDTH * HIDDEN
    assert costs.of_program(fsdp).flops == LAYERS * 2 * 3 * each


def test_collectives_that_a_tpu_compiles(fsdp: hlo.Program) -> None:
    """Weights are gathered in bfloat16 for each pass, gradients are scattered; a gather
    whose start, steps and end all name it counts once."""
    bytes_of: dict[str, float] = defaultdict(float)
    got = costs.of_program(fsdp)
    assert got.unknown_loops == 0
    for one in got.collectives:
        bytes_of[one.kind] += one.bytes * one.executions
    numbers = LAYERS * 2 * WIDTH * HIDDEN
    # bfloat16: of the gradients too, since the program casts the weights within.
    assert bytes_of == {"all-gather": 2 * 2 * numbers, "reduce-scatter": 2 * numbers}


STACK = """HloModule stack

%slice (p: f32[4,8,8], at: s32[]) -> f32[1,8,8] {
  %p = f32[4,8,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %one = f32[1,8,8]{2,1,0} dynamic-slice(%p, %at, %zero, %zero)
}

%update (p.1: f32[4,8,8], new: f32[1,8,8], at.1: s32[]) -> f32[4,8,8] {
  %p.1 = f32[4,8,8]{2,1,0} parameter(0)
  %new = f32[1,8,8]{2,1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %all = f32[4,8,8] dynamic-update-slice(%p.1, %new, %at.1, %zero.1, %zero.1)
}

ENTRY %main (a: f32[4,8,8], i: s32[]) -> f32[4,8,8] {
  %a = f32[4,8,8]{2,1,0} parameter(0)
  %i = s32[]{:S(2)} parameter(1)
  %layer = f32[1,8,8]{2,1,0} fusion(%a, %i), kind=kLoop, calls=%slice
  %near = f32[1,8,8]{2,1,0:T(8,128)S(1)} add(%layer, %layer)
  ROOT %b = f32[4,8,8]{2,1,0} fusion(%a, %near, %i), kind=kLoop, calls=%update
}
"""


def test_traffic_of_a_stack_is_that_of_its_slices_and_updates() -> None:
    """256 bytes a layer: the slice reads and writes it, the sum reads it twice into
    vector memory, and the update writes it from there."""
    assert costs.memory_traffic(hlo.parse(STACK)) == (1 + 1 + 2 + 1) * 256


DIVIDED = """HloModule divided, replica_count=1, num_partitions=8

%start (p: f32[2,4]) -> f32[16,4] {
  %p = f32[2,4]{1,0} parameter(0)
  ROOT %g = f32[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups=[1,8]<=[8], \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
}

%steps (p.1: f32[2,4]) -> f32[16,4] {
  %p.1 = f32[2,4]{1,0} parameter(0)
  ROOT %g.1 = f32[16,4]{1,0} all-gather(%p.1), channel_id=3, \
replica_groups=[1,8]<=[8], \
backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

ENTRY %main (a: f32[2,4]) -> f32[16,4] {
  %a = f32[2,4]{1,0} parameter(0)
  %one = f32[16,4]{1,0} fusion(%a), kind=kCustom, calls=%start
  %two = f32[16,4]{1,0} fusion(%a), kind=kCustom, calls=%steps
  %three = f32[16,4]{1,0} fusion(%a), kind=kCustom, calls=%start
  ROOT %four = f32[16,4]{1,0} all-gather(%a), channel_id=3, replica_groups={}
}
"""


def test_collectives_of_one_channel_count_each() -> None:
    """An unrolled loop repeats a collective with its channel: here two that overlap,
    of which one has steps, and one that does not, of all chips."""
    got = costs.of_program(hlo.parse(DIVIDED)).collectives
    assert set(got) == {
        costs.Collective("all-gather", 256, 8, executions=2, overlaps=True),
        costs.Collective("all-gather", 256, 8, executions=1, overlaps=False),
    }


@pytest.mark.parametrize(("slices", "number"), [("1,2", 2), ("0:3", 4)])
def test_what_hosts_send_to_other_slices_is_a_collective(
    slices: str, number: int
) -> None:
    send = f"""
  %t = token[] after-all()
  %s = (f32[2,4]{{1,0}}, u32[], token[]) send(%a, %t), is_host_transfer=true,\
 frontend_attributes={{_xla_megascale_target="{{{slices}}}x{{0:7}}",\
_xla_megascale_transfer_type="ALL_REDUCE"}}
  ROOT"""
    before, _, after = DIVIDED.rpartition("\n  ROOT")
    got = costs.of_program(hlo.parse(before + send + after)).collectives
    assert costs.Collective("all-reduce", 32, number, 1, True, span=8) in got


@pytest.mark.parametrize(
    ("groups", "expected", "span"),
    [
        ("{{0,1},{2,3}}", 2, 0),
        ("{{0,4},{1,5}}", 2, 5),
        ("[2,4]<=[8]", 4, 0),
        ("[2,4]<=[4,2]T(1,0)", 4, 7),
        ("mesh['a'=4,'b'=2] {'a'}", 4, 7),
        ("mesh['a'=4,'b'=2] {'a','b'}", 8, 0),
        ("mesh['a'=8] {'a':(2)4}", 4, 0),
        ("mesh['a'=8] {'a':(1)4}", 4, 7),
        ("{}", 8, 0),
    ],
)
def test_chips_of_a_group_and_its_span(groups: str, expected: int, span: int) -> None:
    text = DIVIDED.replace("replica_groups={}", f"replica_groups={groups}")
    (one,) = (
        c for c in costs.of_program(hlo.parse(text)).collectives if not c.overlaps
    )
    assert (one.group, one.span) == (expected, span)


MOVES = """HloModule moves

%both (new: f32[1,8,8], p: f32[4,8,8], q: f32[2,8,8]) -> (f32[4,8,8], f32[8,8]) {
  %q = f32[2,8,8]{2,1,0} parameter(2)
  %new = f32[1,8,8]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %p = f32[4,8,8]{2,1,0} parameter(1)
  %flat = f32[4,8,8]{2,1,0} bitcast(%p)
  %all = f32[4,8,8]{2,1,0} dynamic-update-slice(%flat, %new, %zero, %zero, %zero)
  %row = f32[1,8,8]{2,1,0} dynamic-slice(%q, %zero, %zero, %zero)
  %one = f32[8,8]{1,0} bitcast(%row)
  ROOT %t = (f32[4,8,8]{2,1,0}, f32[8,8]{1,0}) tuple(%all, %one)
}

ENTRY %main (a: f32[4,8,8], b: f32[2,8,8], w: f32[9,64], i: s32[2,1]) -> f32[9,64] {
  %a = f32[4,8,8]{2,1,0} parameter(0)
  %b = f32[2,8,8]{2,1,0} parameter(1)
  %s = ((f32[4,8,8]{2,1,0}), f32[1,8,8]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%a)
  %d = f32[1,8,8]{2,1,0:S(1)} slice-done(%s)
  %f = (f32[4,8,8]{2,1,0}, f32[8,8]{1,0}) fusion(%d, %a, %b), kind=kLoop, calls=%both
  %w = f32[9,64]{1,0} parameter(2)
  %i = s32[2,1]{1,0} parameter(3)
  %u = f32[2,64]{1,0:S(1)} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %x = f32[9,64]{1,0} scatter(%w, %i, %u), to_apply=%add
}
"""


def test_traffic_of_what_moves_a_part_of_an_array() -> None:
    """256 bytes a part: a slice into vector memory is read once, by its start; of the
    fusion, whose operands come in another order than their numbers, the update is
    written and the other result read and written; the scatter reads two rows and writes
    them."""
    program = hlo.parse(MOVES)
    assert costs.memory_traffic(program) == (1 + 1 + 2 + 2 * 2) * 256


def test_a_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="expected HLO text with an ENTRY"):
        hlo.parse("HloModule nothing")


def test_an_element_type_of_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="program: expected elements of .* got f6e3"):
        hlo.arrays("(f32[2,3]{1,0}, f6e3[4])")
