"""Memory traffic of fusions within fusions, and of collectives divided over fusions."""

from __future__ import annotations

from transformer.planning import hlo, traffic

NESTED = """HloModule nested

%inner (p: f32[4,8,8], at: s32[]) -> f32[8,8] {
  %p = f32[4,8,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,8]{2,1,0} dynamic-slice(%p, %at, %zero, %zero)
  ROOT %flat = f32[8,8]{1,0} bitcast(%one)
}

%outer (q: f32[4,8,8], at.1: s32[], x: f32[8,8]) -> f32[8,8] {
  %q = f32[4,8,8]{2,1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  %x = f32[8,8]{1,0} parameter(2)
  %w = f32[8,8]{1,0} fusion(%q, %at.1), kind=kLoop, calls=%inner
  ROOT %y = f32[8,8]{1,0} dot(%x, %w), lhs_contracting_dims={1}
}

ENTRY %main (a: f32[4,8,8], i: s32[], b: f32[8,8]) -> f32[8,8] {
  %a = f32[4,8,8]{2,1,0} parameter(0)
  %i = s32[]{:S(2)} parameter(1)
  %b = f32[8,8]{1,0} parameter(2)
  ROOT %c = f32[8,8]{1,0} fusion(%a, %i, %b), kind=kOutput, calls=%outer
}
"""


def test_a_stack_that_a_fusion_within_a_fusion_slices_is_not_read_whole() -> None:
    """256 bytes a matrix: one layer of four, the other operand and the result."""
    assert traffic.memory_traffic(hlo.parse(NESTED)) == 3 * 256


# As libtpu writes it: a start, a product that goes on with the collective and hands its
# arrays on, and an end; the flags of the start alone are -1.
DIVIDED = """HloModule divided, replica_count=1, num_partitions=8

%start (p: f32[8,8]) -> (f32[8,8], bf16[8,8], s32[2]) {
  %p = f32[8,8]{1,0} parameter(0)
  %r = bf16[8,8]{1,0} all-reduce(%p), backend_config={FLAG"-1"}}
  ROOT %s = (f32[8,8]{1,0}, bf16[8,8]{1,0}, s32[2]{0:S(4)}) custom-call(%p, %r), START
}

%go (p.1: f32[8,8], r.1: bf16[8,8], k: s32[2], x: f32[8,8]) -> (f32[8,8], bf16[8,8]) {
  %p.1 = f32[8,8]{1,0} parameter(0)
  %r.1 = bf16[8,8]{1,0} parameter(1)
  %k = s32[2]{0:S(4)} parameter(2)
  %x = f32[8,8]{1,0} parameter(3)
  %y = f32[8,8]{1,0} multiply(%x, %x)
  %t = bf16[8,8]{1,0} all-reduce(%p.1), backend_config={FLAG"2"}}
  ROOT %all = (f32[8,8]{1,0}, f32[8,8]{1,0}, bf16[8,8]{1,0}) tuple(%y, %p.1, %t)
}

%end (p.2: f32[8,8], r.2: bf16[8,8]) -> bf16[8,8] {
  %p.2 = f32[8,8]{1,0} parameter(0)
  %r.2 = bf16[8,8]{1,0} parameter(1)
  %u = bf16[8,8]{1,0} all-reduce(%p.2), backend_config={FLAG"2"}}
  ROOT %d = bf16[8,8]{1,0} custom-call(%p.2, %r.2, %u), DONE
}

ENTRY %main (a: f32[8,8], b: f32[8,8]) -> bf16[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  %f = (f32[8,8]{1,0}, bf16[8,8]{1,0}, s32[2]{0:S(4)}) fusion(%a), calls=%start
  %f0 = f32[8,8]{1,0} get-tuple-element(%f), index=0
  %f1 = bf16[8,8]{1,0} get-tuple-element(%f), index=1
  %f2 = s32[2]{0:S(4)} get-tuple-element(%f), index=2
  %g = (f32[8,8]{1,0}, f32[8,8]{1,0}, bf16[8,8]{1,0}) fusion(%f0, %f1, %f2, %b), MIDDLE
  %g1 = f32[8,8]{1,0} get-tuple-element(%g), index=1
  %g2 = bf16[8,8]{1,0} get-tuple-element(%g), index=2
  ROOT %h = bf16[8,8]{1,0} fusion(%g1, %g2), calls=%end
}
""".replace("FLAG", '"async_collective_fusion_config":{"flag_start":')
for word, attribute in {
    "START": 'custom_call_target="AsyncCollectiveStart"',
    "DONE": 'custom_call_target="AsyncCollectiveDone"',
    "MIDDLE": "calls=%go",
}.items():
    DIVIDED = DIVIDED.replace(word, attribute)


def test_a_collective_divided_over_fusions_reads_and_writes_once() -> None:
    """Its operand of 256 bytes and its result of 128, in bfloat16; and the operand and
    the result of the product within which it goes on."""
    assert traffic.memory_traffic(hlo.parse(DIVIDED)) == 256 + 128 + 2 * 256
