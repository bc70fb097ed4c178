"""A mixture of experts in the MLP's slot: many MLPs, of which each token meets few."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, dimensions, leaf_name
from transformer.network import mlp
from transformer.network.moe import routing
from transformer.network.precision import contract, product


class Experts(nn.Module):
    """E MLPs of F hidden features and a router that sends each token to k of them, as
    probable as softmax(x w_router) says (Shazeer et al. 2017, arXiv 1701.06538).

    gates: how much each chosen expert counts. dispatch: which tokens they compute. It
    sees tokens only, so padding is routed like any token: it never displaces a token
    before it, and a balance loss that is weighted by the targets does not see it.

    Where the collection `routing` is asked for, it keeps logits_BLE (float32, of the
    router), chosen_BLE (1 where the token chose the expert) and kept_BL (the share of
    the token's choices that found a slot). Raises ValueError unless 1 <= k <= E.
    """

    width: int
    hidden: int
    experts: int
    k: int
    dispatch: routing.Dispatch
    gates: routing.Gates = routing.plain
    activation: mlp.Activation = mlp.gelu
    router_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """(B, L, D) to the same."""
        if not 1 <= self.k <= self.experts:
            raise ValueError(
                f"k: expected 1 to {self.experts} experts a token, got {self.k}"
            )
        shape = self.width, self.hidden
        w_router_DE = self.param(
            "w_router_DE", self.router_init, (self.width, self.experts)
        )
        w_in_EDF = self.param("w_in_EDF", self.weight_init, (self.experts, *shape))
        w_out_EFD = self.param(
            "w_out_EFD", self.output_init, (self.experts, *shape[::-1])
        )
        # Which expert is likeliest is a matter of small differences: float32.
        logits_BLE = product("BLD,DE->BLE", x_BLD, w_router_DE)
        probability_BLE = jax.nn.softmax(logits_BLE)
        choices = routing.top(probability_BLE, self.k, gates=self.gates)
        slots = self.dispatch(choices, self.experts)
        self._tell(x_BLD, logits_BLE, choices, slots)

        x_EBCD = constrain(routing.gathered(x_BLD, slots), "EBCD")
        w_in, w_out = slots.weights(w_in_EDF), slots.weights(w_out_EFD)
        h_EBCF = self.activation(contract("EBCD,EDF->EBCF", x_EBCD, w_in))
        h_EBCF = constrain(h_EBCF, "EBCF")
        y_EBCD = contract("EBCF,EFD->EBCD", h_EBCF, w_out)
        y_EBCD = constrain(y_EBCD, "EBCD")
        return routing.returned(y_EBCD, slots, choices, like=x_BLD)

    def _tell(self, x_BLD, logits_BLE, choices, slots) -> None:
        if not self.is_mutable_collection("routing"):
            return
        _, experts, size = slots.token_BEC.shape
        found = [place_BL < experts * size for place_BL in slots.places]
        kept = jnp.stack(found).mean(0, dtype=jnp.float32).reshape(x_BLD.shape[:2])
        chosen_BLE = routing.counts(choices, self.experts)
        self.sow("routing", "logits_BLE", logits_BLE)
        self.sow("routing", "chosen_BLE", chosen_BLE)
        self.sow("routing", "kept_BL", kept)


def active(params: Any, k: int) -> Any:
    """Shapes of the weights that one token meets, k experts of all: for counting its
    floating-point operations."""

    def met(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        letters = dimensions(leaf_name(path))
        shape = list(leaf.shape)
        if letters.startswith("E"):
            shape[-len(letters)] = k
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(met, params)
