"""A transformer block of your own with xIELU, trained on a toy task in plain PyTorch.

python examples/train_with_xielu.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import integrand as ig

VOCABULARY, CONTEXT, WIDTH = 16, 16, 32


class Block(nn.Module):
    """Pre-norm attention and a plain MLP: down(xIELU(up(x)))."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act_fn = ig.activation("xielu").module()
        self.heads = heads

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        batch, length, width = h.shape
        qkv = self.qkv(self.norm_1(h)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return h + self.down(self.act_fn(self.up(self.norm_2(h))))


def batch(generator: torch.Generator) -> torch.Tensor:
    """Random halves, each followed by its copy: the second half can be predicted."""
    half = torch.randint(VOCABULARY, (16, CONTEXT // 2), generator=generator)
    return torch.cat([half, half], dim=1)


def main() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "tokens": nn.Embedding(VOCABULARY, WIDTH),
            "places": nn.Embedding(CONTEXT, WIDTH),
            "blocks": nn.Sequential(Block(WIDTH), Block(WIDTH)),
            "head": nn.Linear(WIDTH, VOCABULARY),
        }
    )
    # activation parameters in a group of their own: no weight decay
    groups = ig.nn.parameter_groups(model, weight_decay=0.1, lr=3e-3)
    optimiser = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(150):
        tokens = batch(generator)
        h = model["tokens"](tokens[:, :-1]) + model["places"](torch.arange(CONTEXT - 1))
        logits = model["head"](model["blocks"](h))
        # only the copies: the first half is noise
        second = slice(CONTEXT // 2 - 1, None)
        loss = F.cross_entropy(logits[:, second].flatten(0, 1), tokens[:, 1:][:, second].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
        if step % 30 == 0:
            print(f"step {step}: loss of the copy {losses[-1]:.3f}")
    print(f"loss {losses[0]:.3f} -> {sum(losses[-10:]) / 10:.3f}")
    for place, block in enumerate(model["blocks"]):
        learned = {k: round(float(v.detach()), 3) for k, v in block.act_fn.values().items()}
        print(f"layer {place}: {learned}")


if __name__ == "__main__":
    main()
