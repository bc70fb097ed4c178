"""A mixture of experts for the slot of the MLP: each token uses few of many MLPs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, dimensions, leaf_name
from transformer.network import biases, mlp
from transformer.network.block import Make
from transformer.network.moe import routing
from transformer.network.precision import einsum_f32, linear

# expert_map(module, x_EBCD, slots) -> y_EBCD: what the experts compute, with parameters
# of `module`, a `MixtureOfExperts`.
ExpertMap = Callable[[Any, jax.Array, routing.Slots], jax.Array]
# glu(gate, up) -> hidden features.
GatedUnit = Callable[[jax.Array, jax.Array], jax.Array]


def _expert_weights(module: Any, name: str) -> jax.Array:
    inputs, outputs = module.width, module.hidden_features
    if name.endswith("FD"):
        shape = module.experts, outputs, inputs
        return module.param(name, module.output_init, shape)
    return module.param(name, module.weight_init, (module.experts, inputs, outputs))


def _slot_bias(
    module: Any, name: str, features: int, slots: routing.Slots
) -> jax.Array | float:
    """The bias of each slot's expert, to add to (E, B, C, features)."""
    bias = module.make_bias(module, name, (module.experts, features))
    if isinstance(bias, float):
        return bias
    return slots.weights(bias[0, 0])[:, None, None]


def mlp_experts(module: Any, x_EBCD: jax.Array, slots: routing.Slots) -> jax.Array:
    """Each expert is an `mlp.MLP` of the module's activation."""
    w_in, w_out = (
        slots.weights(_expert_weights(module, name))
        for name in ("w_in_EDF", "w_out_EFD")
    )
    b_in = _slot_bias(module, "b_in_EF", module.hidden_features, slots)
    b_out = _slot_bias(module, "b_out_ED", module.width, slots)
    h_EBCF = module.activation(linear("EBCD,EDF->EBCF", x_EBCD, w_in) + b_in)
    h_EBCF = constrain(h_EBCF, "EBCF")
    return linear("EBCF,EFD->EBCD", h_EBCF, w_out) + b_out


def _glu_experts(
    module: Any, x_EBCD: jax.Array, slots: routing.Slots, *, glu: GatedUnit
) -> jax.Array:
    w_gate, w_in, w_out = (
        slots.weights(_expert_weights(module, name))
        for name in ("w_gate_EDF", "w_in_EDF", "w_out_EFD")
    )
    b_gate = _slot_bias(module, "b_gate_EF", module.hidden_features, slots)
    b_in = _slot_bias(module, "b_in_EF", module.hidden_features, slots)
    b_out = _slot_bias(module, "b_out_ED", module.width, slots)
    gate_EBCF = linear("EBCD,EDF->EBCF", x_EBCD, w_gate) + b_gate
    up_EBCF = linear("EBCD,EDF->EBCF", x_EBCD, w_in) + b_in
    h_EBCF = constrain(glu(gate_EBCF, up_EBCF), "EBCF")
    return linear("EBCF,EFD->EBCD", h_EBCF, w_out) + b_out


def gated_experts(module: Any, x_EBCD: jax.Array, slots: routing.Slots) -> jax.Array:
    """Each expert is an `mlp.GatedMLP` of the module's activation (Mixtral, Jiang et
    al. 2024, arXiv 2401.04088)."""
    activation: mlp.Activation = module.activation
    return _glu_experts(
        module, x_EBCD, slots, glu=lambda gate, up: activation(gate) * up
    )


def _clamped_glu(
    gate: jax.Array, up: jax.Array, *, alpha: float, limit: float
) -> jax.Array:
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return (up + 1) * gate * jax.nn.sigmoid(alpha * gate)


def clamped_experts(*, alpha: float = 1.702, limit: float = 7.0) -> ExpertMap:
    """Gated experts (up + 1) gate sigmoid(alpha gate), the gate at most `limit` and up
    within +-`limit` (gpt-oss, OpenAI 2025, arXiv 2508.10925). The module's activation
    is not used."""
    return partial(_glu_experts, glu=partial(_clamped_glu, alpha=alpha, limit=limit))


class MixtureOfExperts(nn.Module):
    """E MLPs of F hidden features and a router that sends each token to k =
    `experts_per_token` of them, by default those of highest probability
    softmax(x w_router) (Shazeer et al. 2017, arXiv 1701.06538).

    router: from the logits x w_router to the choices. gates: weights of the chosen
    experts. dispatch: the slots of the tokens. expert_map:
    what an expert computes. make_bias: biases of the router and of the experts. Padding
    is routed like any token: it never displaces an earlier token, and a balance loss
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
    router: routing.Router = routing.softmax_router
    gates: routing.Gates = routing.raw_gates
    activation: mlp.Activation = mlp.gelu
    expert_map: ExpertMap = mlp_experts
    make_bias: biases.MakeBias = biases.no_bias
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
        w_router_DE = self.param(
            "w_router_DE", self.router_init, (self.width, self.experts)
        )
        b_router_E = self.make_bias(self, "b_router_E", (self.experts,))
        # float32, because small differences decide which expert is chosen.
        logits_BLE = einsum_f32("BLD,DE->BLE", x_BLD, w_router_DE) + b_router_E
        choices = self.router(self, logits_BLE)
        slots = self.dispatch(choices, self.experts)
        self._sow_routing(x_BLD, logits_BLE, choices, slots)

        x_EBCD = constrain(routing.dispatch(x_BLD, slots), "EBCD")
        y_EBCD = self.expert_map(self, x_EBCD, slots)
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


class SharedExperts(nn.Module):
    """A mixture of experts, and an MLP that every token uses beside it: their sum
    (DeepSeekMoE, Dai et al. 2024, arXiv 2401.06066, section 3.2)."""

    make_experts: Make
    make_shared: Make

    def setup(self) -> None:
        self.experts = self.make_experts()
        self.shared = self.make_shared()

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """(B, L, D) to the same."""
        return self.experts(x_BLD) + self.shared(x_BLD)


class SigmoidGate(nn.Module):
    """An MLP times sigmoid(x w_gate), one number a token (the shared expert of Qwen
    1.5 MoE)."""

    make_mlp: Make
    width: int
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        shape = self.width, 1
        self.w_gate_DO = self.param("w_gate_DO", self.weight_init, shape)
        self.mlp = self.make_mlp()

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """(B, L, D) to the same."""
        gate_BLO = jax.nn.sigmoid(linear("BLD,DO->BLO", x_BLD, self.w_gate_DO))
        return gate_BLO * self.mlp(x_BLD)


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
