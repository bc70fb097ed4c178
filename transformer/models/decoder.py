"""The decoder language model: embed -> blocks -> norm -> unembedding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.models import defaults
from transformer.network import masks, norms, positions, precision, stack
from transformer.network.block import UNCONDITIONED, Conditioning, Make
from transformer.network.kv_cache import Memory
from transformer.network.masks import Mask, TokenPositions

# (features x_BLD, unembedding w_VD), from which `precision.unembed` has the logits:
# their product, unless the latter is an `precision.Unembedding`.
Readout = tuple[jax.Array, precision.Table]
Layers = Literal["auto", "unrolled", "scanned"]
Saved = Literal["auto", "none", "products", "weight_products", "attention", "all"]

# Compiling time grows with unrolled layers, which a CPU executes 15 to 25 % faster.
SCANNED_FROM = 12
# Beyond, the outputs of a layer's linear maps are most of the memory.
ALL_FROM = 48
# Documents of one row do not see each other.
CAUSAL_IN_DOCUMENT = masks.causal() & masks.segments()


def tied_unembedding(module: nn.Module, embedding_VD: jax.Array) -> jax.Array:
    """The embedding itself (Press and Wolf 2016, arXiv 1608.05859)."""
    return embedding_VD


def untied_unembedding(module: nn.Module, embedding_VD: jax.Array) -> jax.Array:
    """A parameter of its own, zero at first: uniform predictions, a loss of log V."""
    return module.param("unembedding_VD", nn.initializers.zeros, embedding_VD.shape)


def _with_transform(
    module: nn.Module,
    embedding_VD: jax.Array,
    *,
    unembed: Callable[..., jax.Array],
    transform: precision.Transform,
) -> precision.Unembedding:
    return precision.Unembedding(unembed(module, embedding_VD), transform)


def with_transform(
    unembed: Callable[..., jax.Array], transform: precision.Transform
) -> Callable[[nn.Module, jax.Array], precision.Table]:
    """`unembed`, one of the two above, with a function of the logits, such as
    `precision.SoftCap`."""
    return partial(_with_transform, unembed=unembed, transform=transform)


def logits(readout: Readout) -> jax.Array:
    """float32 (B, L, V) from the pair that a model returns."""
    x_BLD, w_VD = readout
    return constrain(precision.unembed("BLD,VD->BLV", x_BLD, w_VD), "BLV")


def with_bias(x_BLD: jax.Array, table_VD: jax.Array, b_V: jax.Array) -> Readout:
    """The readout whose logits are the product of features and table, and a bias.

    Its features are one more: that is 1, and its column of the unembedding is the bias.
    So every loss and decoder of pairs works.
    """
    one_BLD, bias_VD = jnp.ones_like(x_BLD[..., :1]), b_V[:, None]
    return (
        jnp.concatenate([x_BLD, one_BLD], axis=-1),
        jnp.concatenate([table_VD, bias_VD.astype(table_VD.dtype)], axis=-1),
    )


class Decoder(nn.Module):
    """Next-token model over V tokens, of any stack with `__call__` and `decode`.

    It returns the pair (features x_BLD, unembedding w_VD) instead of their product, so
    that a loss over a large vocabulary need not hold all logits; `logits` multiplies.
    """

    vocab_size: int
    width: int
    make_stack: Make
    make_position: Make = positions.NoPositions
    make_norm: Make = norms.LayerNorm
    make_embedding_norm: Make = norms.Identity
    unembed: Callable[[nn.Module, jax.Array], precision.Table] = tied_unembedding
    embedding_scale: float = 1.0
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        shape = self.vocab_size, self.width
        self.embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        self.unembedding_VD = self.unembed(self, self.embedding_VD)
        self.position = self.make_position()
        self.embedding_norm = self.make_embedding_norm()
        self.stack = self.make_stack()
        self.final_norm = self.make_norm()

    def __call__(
        self,
        ids_BL: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> Readout:
        """Features of whole rows: ids (B, L) int32 and their positions."""
        x_BLD = self.stack(self._embedding(ids_BL, tokens), tokens, conditioning)
        return self.final_norm(x_BLD), self.unembedding_VD

    def decode(
        self, ids_BL: jax.Array, cache: Any, tokens: TokenPositions
    ) -> tuple[Readout, Any]:
        """Features of the next tokens of each row, and the cache with their keys and
        values."""
        x_BLD, cache = self.stack.decode(self._embedding(ids_BL, tokens), cache, tokens)
        return (self.final_norm(x_BLD), self.unembedding_VD), cache

    @nn.nowrap
    def empty_cache(self, rows: int, length: int, chunk: int, dtype: Any) -> Any:
        """Caches of every layer for `rows` rows of up to `length` tokens, decoded at
        most `chunk` at a time. Needs no parameters. ValueError for more tokens than
        there are learned positions."""
        positions.check_length(self.make_position(), length)
        return self.make_stack().empty_cache(rows, length, chunk, dtype)

    @nn.nowrap
    def unroll(self) -> Decoder | None:
        """The same net with its scanned layers unrolled; None where they are so."""
        layers = self.make_stack()
        if not isinstance(layers, stack.ScannedStack):
            return None
        return self.clone(make_stack=layers.unroll)

    def cache_memory(self, memory: Memory) -> Any:
        """Keys and values of the memory in every layer that cross-attends."""
        return self.stack.cache_memory(memory)

    def _embedding(self, ids_BL: jax.Array, tokens: TokenPositions) -> jax.Array:
        x_BLD = constrain(precision.embed(self.embedding_VD, ids_BL), "BLD")
        if self.embedding_scale != 1.0:
            x_BLD = x_BLD * jnp.asarray(self.embedding_scale, x_BLD.dtype)
        x_BLD = self.embedding_norm(self.position(x_BLD, tokens.position_BL))
        return constrain(x_BLD, "BLD")


def language_model(
    *,
    depth: int,
    vocab_size: int,
    width: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    mask: Mask = CAUSAL_IN_DOCUMENT,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
    make_cross_attention: defaults.MakeOfWidth | None = None,
    make_position: Make = positions.NoPositions,
) -> Decoder:
    """The default decoder: `depth` blocks of `width` (64 * depth if None, nanochat's
    aspect ratio), RMS norms, untied embeddings.

    The slots are called with the keyword `width`, once for each block. make_attention:
    if None, `heads` (of 64 features if None) with rotary positions and QK-norm under
    `mask`, by default of the earlier tokens of the same document, and `kv_heads` of
    keys and values (as many if None).
    make_mlp: if None, `defaults.mlp`. make_cross_attention: to a memory; none if None.
    ValueError where the default heads do not fill the width.
    """
    width = defaults.TEXT_HEAD_FEATURES * depth if width is None else width
    make_attention = make_attention or defaults.attention(
        width=width,
        head_features=width // heads if heads else defaults.TEXT_HEAD_FEATURES,
        kv_heads=kv_heads,
        mask=mask,
        rotate=positions.rotary(),
    )
    return Decoder(
        vocab_size=vocab_size,
        width=width,
        make_stack=defaults.stack(
            depth=depth,
            width=width,
            make_attention=make_attention,
            make_mlp=make_mlp,
            make_cross_attention=make_cross_attention,
        ),
        make_position=make_position,
        make_norm=defaults.make_norm,
        make_embedding_norm=defaults.make_norm,
        unembed=untied_unembedding,
        weight_init=nn.initializers.normal(1.0),
    )


def init_params(net: nn.Module, key: jax.Array) -> Any:
    """The parameters of a language model, a nested dictionary of float32 arrays."""
    ids_BL = jnp.zeros((1, 1), jnp.int32)
    return net.init(key, ids_BL, masks.single_document(1))["params"]


def _choose_layers(depth: int, layers: Layers, remat: Saved) -> tuple[str, str]:
    """`layers` and `remat` with auto resolved: scanned from 12 blocks on, and then only
    the outputs of the linear maps are saved, attention and what is elementwise is
    computed again (Korthikanti et al. 2022, arXiv 2205.05198, section 5); from 48 on
    nothing is saved but the input of each block."""
    if layers == "auto":
        layers = "scanned" if depth >= SCANNED_FROM else "unrolled"
    if remat == "auto":
        saves = "weight_products" if depth < ALL_FROM else "all"
        remat = saves if depth >= SCANNED_FROM else "none"
    return layers, remat


def _is_unrolled(make_stack: Any) -> TypeGuard[partial[Any]]:
    """Whether a slot makes an `UnrolledStack` of known keywords."""
    return isinstance(make_stack, partial) and make_stack.func is stack.UnrolledStack


def compile_layers(net: Any, *, layers: Layers, remat: Saved) -> Any:
    """`net` with the layers of its `UnrolledStack` compiled so; auto leaves a net with
    another stack alone, else it is a ValueError."""
    make = getattr(net, "make_stack", None)
    if not _is_unrolled(make):
        if (layers, remat) == ("auto", "auto"):
            return net
        raise ValueError(
            f"--layers, --remat: expected auto for a net of another stack than "
            f"UnrolledStack, got {layers}, {remat}"
        )
    form, saves = _choose_layers(make.keywords["depth"], layers, remat)
    if (form, saves) == ("unrolled", "none"):
        return net
    kind = stack.ScannedStack if form == "scanned" else stack.UnrolledStack
    return net.clone(
        make_stack=partial(kind, **make.keywords, remat=stack.REMAT[saves])
    )


class RematChoice(NamedTuple):
    """A net by the names of the remat policies that its run may choose from, the one
    that recomputes least first. policy: the one by depth, or the only one."""

    nets: dict[str, Any]
    policy: str

    @property
    def net(self) -> Any:
        return self.nets[self.policy]


def remat_choice(net: Any, *, layers: Layers, remat: Saved) -> RematChoice:
    """`compile_layers` with all policies where `remat` is auto; with one where it is
    not, and of a net with another stack."""
    made = compile_layers(net, layers=layers, remat=remat)
    policy = summary(made).get("remat", "other")
    by_name = policy in stack.REMAT and _is_unrolled(getattr(net, "make_stack", None))
    if remat != "auto" or not by_name:
        return RematChoice({policy: made}, policy)
    names: tuple[Any, ...] = tuple(stack.REMAT)
    return RematChoice(
        {name: compile_layers(net, layers=layers, remat=name) for name in names}, policy
    )


def summary(net: Any) -> dict[str, Any]:
    """The sizes of a `Decoder`, the form of its layers, what their backward pass saves,
    and the kernel of their attention, by name; what a slot of another kind does not say
    is left out."""
    layers = net.make_stack() if isinstance(net, Decoder) else None
    if not isinstance(layers, (stack.UnrolledStack, stack.ScannedStack)):
        return {}
    attention = layers.make_block(layers.block, 0).make_attention()
    names = ("heads", "kv_heads", "head_features")
    found = {n: getattr(attention, n) for n in names if hasattr(attention, n)}
    policy = (name for name, known in stack.REMAT.items() if known is layers.remat)
    return {
        "width": net.width,
        **found,
        "layers": type(layers).__name__.removesuffix("Stack").lower(),
        "remat": next(policy, "other"),
        "attention": defaults.kernel_name(getattr(attention, "make_mixer", attention)),
    }
