"""A mixture of experts for the slot of the MLP: each token uses few of many MLPs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, dimensions, leaf_name
from transformer.network import mlp
from transformer.network.moe import routing
from transformer.network.precision import einsum_f32, linear


class MixtureOfExperts(nn.Module):
    """E MLPs of F hidden features and a router that sends each token to the k =
    `experts_per_token` of highest probability softmax(x w_router) (Shazeer et al. 2017,
    arXiv 1701.06538).

    gates: weights of the chosen experts. dispatch: the slots of the tokens. Padding is
    routed like any token: it never displaces an earlier token, and a balance loss
    weighted by the targets excludes it.

    Sows in the collection `routing`: logits_BLE (float32, of the router), chosen_BLE (1
    where the token chose the expert) and kept_BL (the fraction of the token's choices
    that have a slot). Raises ValueError unless 1 <= k <= E.
    """

    width: int
    hidden_features: int
    experts: int
    experts_per_token: int
    dispatch: routing.Dispatch
    gates: routing.Gates = routing.raw_gates
    activation: mlp.Activation = mlp.gelu
    router_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    output_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """(B, L, D) to the same."""
        if not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"experts_per_token: expected 1 to {self.experts}, got "
                f"{self.experts_per_token}"
            )
        shape = self.width, self.hidden_features
        w_router_DE = self.param(
            "w_router_DE", self.router_init, (self.width, self.experts)
        )
        w_in_EDF = self.param("w_in_EDF", self.weight_init, (self.experts, *shape))
        w_out_EFD = self.param(
            "w_out_EFD", self.output_init, (self.experts, *shape[::-1])
        )
        # float32, because small differences decide which expert is chosen.
        logits_BLE = einsum_f32("BLD,DE->BLE", x_BLD, w_router_DE)
        probability_BLE = jax.nn.softmax(logits_BLE)
        choices = routing.top_k(
            probability_BLE, self.experts_per_token, gates=self.gates
        )
        slots = self.dispatch(choices, self.experts)
        self._sow_routing(x_BLD, logits_BLE, choices, slots)

        x_EBCD = constrain(routing.dispatch(x_BLD, slots), "EBCD")
        w_in, w_out = slots.weights(w_in_EDF), slots.weights(w_out_EFD)
        h_EBCF = self.activation(linear("EBCD,EDF->EBCF", x_EBCD, w_in))
        h_EBCF = constrain(h_EBCF, "EBCF")
        y_EBCD = linear("EBCF,EFD->EBCD", h_EBCF, w_out)
        y_EBCD = constrain(y_EBCD, "EBCD")
        return routing.combine(y_EBCD, slots, choices, like=x_BLD)

    def _sow_routing(self, x_BLD, logits_BLE, choices, slots) -> None:
        if not self.is_mutable_collection("routing"):
            return
        _, experts, size = slots.token_BEC.shape
        has_slot = [slot_BL < experts * size for slot_BL in slots.slot_of_token]
        kept_BL = jnp.stack(has_slot).mean(0, dtype=jnp.float32)
        chosen_BLE = routing.expert_one_hot(choices, self.experts)
        self.sow("routing", "logits_BLE", logits_BLE)
        self.sow("routing", "chosen_BLE", chosen_BLE)
        self.sow("routing", "kept_BL", kept_BL.reshape(x_BLD.shape[:2]))


def active_param_shapes(params: Any, experts_per_token: int) -> Any:
    """Shapes of the weights that one token uses, those of `experts_per_token` experts,
    to count its floating-point operations."""

    def shape_of(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        letters = dimensions(leaf_name(path))
        shape = list(leaf.shape)
        if letters.startswith("E"):
            shape[-len(letters)] = experts_per_token
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(shape_of, params)
