"""Our transformer written for PyTorch, the opponent of bench_train.py and bench_decode.py: no slower than we can.

Attention is `scaled_dot_product_attention`, which skips the upper triangle; queries, keys and values are one product;
embeddings are tables looked up; a step's cache is written in place.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def heads(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> list[torch.Tensor]:
        """[B, L, D] -> rotated queries, rotated keys, values, each [B, H, L, K]."""
        split = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        return [_rotate(q, cos, sin), _rotate(k, cos, sin), v]

    def close(self, x: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm_forward(x)), approximate="tanh"))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Decoder(nn.Module):
    def __init__(
        self,
        width: int,
        num_layers: int,
        num_heads: int,
        *,
        num_symbols: int,
        num_actions: int,
        context: int,
        num_ages: int = 65,
    ):
        super().__init__()
        self.num_symbols, self.num_actions, self.num_ages = num_symbols, num_actions, num_ages
        self.obs, self.action = nn.Embedding(num_symbols, width), nn.Embedding(num_actions + 1, width)
        self.age, self.scalars = nn.Embedding(num_ages, width), nn.Linear(3, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_actions)
        for block in self.blocks:
            for linear in (block.out, block.down):
                nn.init.normal_(linear.weight, std=1 / (num_layers * math.sqrt(linear.in_features)))
        half = width // num_heads // 2
        angle = torch.arange(context)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def embed(self, obs, action, age, scalars) -> torch.Tensor:
        return self.obs(obs) + self.action(action) + self.age(age) + self.scalars(scalars)

    def forward(self, obs, action, age, scalars) -> torch.Tensor:
        """Logits [B, L, A]; `scalars` [B, L, 3] are reward, done and begin."""
        x = self.embed(obs, action, age, scalars)
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for block in self.blocks:
            q, k, v = block.heads(x, cos, sin)
            x = block.close(x, functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.head(self.norm(x))

    def step(self, obs, action, age, scalars, keys, values, slot: int, num_there: int) -> torch.Tensor:
        """Logits [E, A] of one step; keys and values, a layer each [E, H, T, K], are written at `slot`."""
        x = self.embed(obs, action, age, scalars)[:, None]
        cos, sin = self.cos[slot : slot + 1], self.sin[slot : slot + 1]
        for block, all_keys, all_values in zip(self.blocks, keys, values, strict=True):
            q, k, v = block.heads(x, cos, sin)
            all_keys[:, :, slot], all_values[:, :, slot] = k[:, :, 0], v[:, :, 0]
            mixed = functional.scaled_dot_product_attention(
                q, all_keys[:, :, :num_there], all_values[:, :, :num_there]
            )
            x = block.close(x, mixed)
        return self.head(self.norm(x))[:, 0]


def random_batch(model: Decoder, batch: int, context: int, *, seed: int):
    """Tokens as `forward` takes them, and actions [B, L]."""
    generator = torch.Generator().manual_seed(seed)
    device, shape = model.cos.device, (batch, context)

    def some(high):
        return torch.randint(high, shape, generator=generator).to(device)

    scalars = torch.rand((*shape, 3), generator=generator).round().to(device)
    inputs = (some(model.num_symbols), some(model.num_actions + 1), some(model.num_ages), scalars)
    return inputs, some(model.num_actions)
