"""A plain PyTorch GPT of the shapes that `train_step` and `decode` compare with.

Pre-norm decoder with learned positions, LayerNorm, GELU (tanh), tied unembedding and
no biases in the linear maps, written as one would write it for speed in PyTorch: one
product for q, k and v, `scaled_dot_product_attention`, fused AdamW, autocast for
bfloat16 compute over float32 masters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.shapes import Shape

Cache = list[tuple[torch.Tensor, torch.Tensor]]


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, length, width = x.shape
        parts = self.qkv(x).split(width, dim=2)
        return tuple(
            p.view(rows, length, self.heads, -1).transpose(1, 2) for p in parts
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(x)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def step(self, x: torch.Tensor, cache: Any, at: int) -> torch.Tensor:
        """One token attends to the cache, to which it is added in place at `at`."""
        q, k, v = self.split(x)
        cache[0][:, :, at : at + 1] = k
        cache[1][:, :, at : at + 1] = v
        keys, values = (a[:, :, : at + 1] for a in cache)
        y = functional.scaled_dot_product_attention(q, keys, values)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-5)
        self.attention = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-5)
        self.up = nn.Linear(shape.width, 4 * shape.width, bias=False)
        self.down = nn.Linear(4 * shape.width, shape.width, bias=False)

    def mlp(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.gelu(self.up(x), approximate="tanh"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def step(self, x: torch.Tensor, cache: Any, at: int) -> torch.Tensor:
        x = x + self.attention.step(self.norm1(x), cache, at)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.position = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-5)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        position = torch.arange(ids.shape[1])
        x = self.embedding(ids) + self.position(position)
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def step(self, ids: torch.Tensor, cache: Cache, at: int) -> torch.Tensor:
        """Logits of the token after `ids` (rows, 1), which are at position `at`."""
        x = self.embedding(ids) + self.position.weight[at]
        for block, layer in zip(self.blocks, cache, strict=True):
            x = block.step(x, layer, at)
        return functional.linear(self.norm(x), self.embedding.weight)


def load_model(shape: Shape, weights: dict[str, np.ndarray]) -> GPT:
    """The model with the named arrays of `shapes.weights`."""
    model = GPT(shape)
    state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    model.load_state_dict(state)
    return model


def trainer(shape: Shape, weights: dict[str, np.ndarray], *, dtype: str, compile: bool):
    """A function of (ids, targets) that makes one AdamW step and returns the loss."""
    model = load_model(shape, weights)
    run = torch.compile(model) if compile else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=shape.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        fused=True,
    )
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def step(ids: np.ndarray, targets: np.ndarray) -> float:
        x, y = (torch.from_numpy(a).long() for a in (ids, targets))
        with autocast:
            loss = run(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
