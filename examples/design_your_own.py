"""Design an activation by its gradient: derive it, read it, certify it, use it as a layer.

python examples/design_your_own.py
"""

import torch

import integrand as ig

# slope 0 far to the left and `height` far to the right, with a dip of `depth` on both sides of 0
SPEC = ig.Spec(
    name="dip",
    gradient="height*sigmoid(x) - depth*exp(-x**2)*x**2",
    params={"height": ig.Param(1.0, above=0), "depth": ig.Param(0.8, above=0)},
)


def main() -> None:
    act = ig.derive(SPEC)
    print(f"f'(x) = {SPEC.gradient}")
    print(f"f(x)  = {act.formula}")
    print(f"found by {', '.join(act.path)}; verified within {max(act.verified.values()):.1e}")

    low, high = act.properties.gradient_range
    print(f"slope between {low:.3f} and {high:.3f}; E f^2 = {act.properties.second_moment:.3f}")

    cert = ig.certify(act, dtype=torch.bfloat16)
    print(f"bf16, every input: f within {cert.max_ulp_f:.3f} ulp, f' within {cert.max_ulp_df:.3f}")
    if not cert.ok:
        raise SystemExit(f"not certified: {cert.reasons[0]}")

    # a layer with trainable parameters that stay above 0
    layer = act.module()
    block = torch.nn.Sequential(torch.nn.Linear(16, 64), layer, torch.nn.Linear(64, 1))
    optimiser = torch.optim.AdamW(ig.nn.parameter_groups(block, lr=1e-2))
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    y = x.square().sum(-1, keepdim=True).sqrt()
    first = last = 0.0
    for step in range(200):
        loss = (block(x) - y).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
    print(f"a regression with it: loss {first:.3f} -> {last:.4f}")
    print({name: round(float(v.detach()), 4) for name, v in layer.values().items()})


if __name__ == "__main__":
    main()
