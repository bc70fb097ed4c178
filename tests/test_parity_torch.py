"""Attention and block equal PyTorch's, with its weights in ours."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.network import attention, biases, block, masks, mlp, norms

torch = pytest.importorskip("torch")

ROWS, LENGTH, WIDTH, HEADS, HIDDEN = 3, 10, 32, 4, 48
FEATURES = WIDTH // HEADS
VALID = np.array([10, 7, 4])
SEGMENT = (np.arange(LENGTH) < VALID[:, None]).astype(np.int32)
PLACE = np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH))
TOKENS = masks.packed(jnp.asarray(SEGMENT), jnp.asarray(PLACE))

# Ours, and the same in arguments of torch's forward.
MASKS = {
    "everything": (masks.full(), {}),
    "causal": (
        masks.causal(),
        {"src_mask": np.triu(np.ones((LENGTH, LENGTH), bool), 1)},
    ),
    "padding": (masks.padding(), {"src_key_padding_mask": SEGMENT == 0}),
}


def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, LENGTH, WIDTH)).astype("float32")


def randomised(module: Any) -> Any:
    """torch leaves biases at 0 and gains at 1, where an error could hide."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def attention_weights(module: Any) -> dict[str, np.ndarray]:
    """A `torch.nn.MultiheadAttention` as parameters of `attention.Attention`."""
    w_qkv = module.in_proj_weight.detach().numpy().reshape(3, HEADS, FEATURES, WIDTH)
    b_qkv = module.in_proj_bias.detach().numpy().reshape(3, HEADS, FEATURES)
    w_out = module.out_proj.weight.detach().numpy().reshape(WIDTH, HEADS, FEATURES)
    return {
        "w_q_DHK": np.moveaxis(w_qkv[0], -1, 0),
        "w_k_DGK": np.moveaxis(w_qkv[1], -1, 0),
        "w_v_DGK": np.moveaxis(w_qkv[2], -1, 0),
        "w_o_HKD": np.moveaxis(w_out, 0, -1),
        "b_q_HK": b_qkv[0],
        "b_k_GK": b_qkv[1],
        "b_v_GK": b_qkv[2],
        "b_o_D": module.out_proj.bias.detach().numpy(),
    }


def norm_weights(module: Any) -> dict[str, np.ndarray]:
    return {
        "gain_D": module.weight.detach().numpy(),
        "bias_D": module.bias.detach().numpy(),
    }


def block_weights(module: Any) -> dict[str, Any]:
    """A `torch.nn.TransformerEncoderLayer` as parameters of `block.Block`."""
    return {
        "attention": attention_weights(module.self_attn),
        "attention_norm": norm_weights(module.norm1),
        "mlp": {
            "w_in_DF": module.linear1.weight.detach().numpy().T,
            "b_in_F": module.linear1.bias.detach().numpy(),
            "w_out_FD": module.linear2.weight.detach().numpy().T,
            "b_out_D": module.linear2.bias.detach().numpy(),
        },
        "mlp_norm": norm_weights(module.norm2),
    }


def make_attention(mask: masks.Mask) -> attention.Attention:
    return attention.Attention(
        width=WIDTH,
        heads=HEADS,
        kv_heads=HEADS,
        head_features=FEATURES,
        mask=mask,
        make_bias=biases.zero_init_bias,
    )


def compare(ours: Any, params: Any, theirs: Any) -> None:
    """Outputs and gradients by the input, at the tokens that are not padding."""
    x = inputs()
    seen = SEGMENT[:, :, None].astype(np.float32)

    @partial(jax.value_and_grad, has_aux=True)
    def run(x: jax.Array) -> Any:
        y = ours.apply({"params": params}, x, TOKENS)
        return jnp.sum(jnp.sin(y) * seen), y

    (_, got), got_slope = jax.jit(run)(x)
    x_torch = torch.from_numpy(x).requires_grad_()
    expected = theirs(x_torch)
    (torch.sin(expected) * torch.from_numpy(seen)).sum().backward()
    for a, b in ((expected.detach(), got), (x_torch.grad, got_slope)):
        np.testing.assert_allclose(a.numpy() * seen, b * seen, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mask", "torch_kwargs"), MASKS.values(), ids=MASKS)
def test_attention_equals_torch(
    mask: masks.Mask, torch_kwargs: dict[str, np.ndarray]
) -> None:
    theirs = randomised(torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    names = {"src_mask": "attn_mask", "src_key_padding_mask": "key_padding_mask"}
    torch_tensors = {
        names[name]: torch.from_numpy(a) for name, a in torch_kwargs.items()
    }
    compare(
        make_attention(mask),
        attention_weights(theirs),
        lambda x: theirs(x, x, x, need_weights=False, **torch_tensors)[0],
    )


BLOCKS = {
    "pre-norm, as GPT-2": (
        block.pre_norm,
        mlp.gelu,
        {
            "norm_first": True,
            "activation": partial(torch.nn.functional.gelu, approximate="tanh"),
        },
    ),
    "post-norm, as Vaswani et al.": (
        block.post_norm,
        jax.nn.relu,
        {"norm_first": False, "activation": "relu"},
    ),
}


@pytest.mark.parametrize(("mask", "torch_kwargs"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    ("residual", "activation", "kind"), BLOCKS.values(), ids=BLOCKS
)
def test_block_equals_torch(
    residual: block.ResidualOrder,
    activation: Any,
    kind: Any,
    mask: masks.Mask,
    torch_kwargs: Any,
) -> None:
    theirs = randomised(
        torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, **kind
        )
    )
    ours = block.Block(
        make_attention=partial(make_attention, mask),
        make_mlp=partial(
            mlp.MLP,
            width=WIDTH,
            hidden_features=HIDDEN,
            activation=activation,
            make_bias=biases.zero_init_bias,
        ),
        make_norm=norms.LayerNorm,
        residual=residual,
    )
    torch_tensors = {name: torch.from_numpy(a) for name, a in torch_kwargs.items()}
    compare(ours, block_weights(theirs), lambda x: theirs(x, **torch_tensors))
