"""Layers are scanned and saved as the flags say, and by depth where they say auto."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from experiments import language_model
from transformer import axes
from transformer.models import decoder
from transformer.network import stack
from transformer.planning import plan
from transformer.training import loop
from transformer.training.update import abstract_state


def net_of(depth: int, **how: Any) -> Any:
    net = decoder.language_model(depth=depth, vocab_size=8, width=64)
    return decoder.compile_layers(net, **{"layers": "auto", "remat": "auto", **how})


@pytest.mark.parametrize(
    ("depth", "kind", "saves"),
    [
        (11, stack.UnrolledStack, "none"),
        (12, stack.ScannedStack, "weight_products"),
        (48, stack.ScannedStack, "all"),
    ],
)
def test_auto_follows_from_the_depth(depth: int, kind: Any, saves: str) -> None:
    made = net_of(depth).make_stack
    assert made.func is kind
    assert made.keywords.get("remat", stack.REMAT["none"]) is stack.REMAT[saves]


def test_scanned_layers_have_the_parameters_of_unrolled_ones() -> None:
    def sizes(net: Any) -> list[int]:
        init = decoder.init_params
        params = jax.eval_shape(lambda key: init(net, key), jax.random.key(0))
        return [a.size for a in jax.tree.leaves(params)]

    scanned, unrolled = sizes(net_of(3, layers="scanned")), sizes(net_of(3))
    assert sum(scanned) == sum(unrolled)
    assert len(scanned) < len(unrolled)


def test_another_stack_is_left_alone_or_refused() -> None:
    net = decoder.language_model(depth=1, vocab_size=8, width=64)
    other = net.clone(make_stack=net.make_stack.func)
    auto: Any = {"layers": "auto", "remat": "auto"}
    assert decoder.compile_layers(other, **auto) is other
    with pytest.raises(ValueError, match="--layers, --remat: expected auto"):
        decoder.compile_layers(other, layers="scanned", remat="auto")


def test_a_net_with_a_scanned_stack_of_its_own_keeps_its_policy() -> None:
    """As an imported net of many layers has it."""
    scanned = net_of(3, layers="scanned", remat="products")
    choice = decoder.remat_choice(scanned, layers="auto", remat="auto")
    assert choice.nets == {"products": scanned} and choice.net is scanned


def test_the_step_of_scanned_layers_does_not_grow_with_the_depth() -> None:
    """Its program on a mesh, the optimizer included: so deep nets compile as fast as
    shallow ones."""
    mesh = axes.make_mesh(fsdp=8)

    def length(depth: int, layers: str) -> int:
        made = language_model.experiment(
            **{"depth": depth, "width": 64, "vocab_size": 300, "layers": layers},
            **{"sequence_length": 16, "batch_size": 8, "accumulate": 1, "steps": 9},
        )
        arguments = abstract_state(made, mesh), plan.abstract_batch(made, mesh)
        with jax.set_mesh(mesh):
            lowered = loop.jit_update(made, mesh).trace(*arguments).lower()
        return len(lowered.as_text().splitlines())

    assert length(2, "scanned") == length(8, "scanned")
    assert length(2, "unrolled") < length(3, "unrolled")
