import pytest
import torch
from torch import Tensor

from integrand.errors import BackendError, SpecError
from integrand.nn.jump import FATReLU, jump

# 0.1 lies below its bf16 neighbour, 0.3 above: a threshold rounded to bf16 would be seen
THRESHOLDS = (1e-40, 0.01, 0.1, 0.3, 1.0, 300.0)


def every_pattern(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_every_half_precision_input_is_exact(dtype: torch.dtype, threshold: float) -> None:
    act = FATReLU(threshold)
    x = every_pattern(dtype).requires_grad_()
    y = act(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    kept = [not (v < act.threshold) for v in x.detach().double().tolist()]  # a NaN is kept
    expected = torch.where(torch.tensor(kept), x.detach(), torch.zeros_like(x))
    assert y.dtype == dtype
    assert torch.equal(y.detach().view(torch.int16), expected.view(torch.int16))
    assert slope.tolist() == [float(k) for k in kept]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_jumps_between_neighbouring_floats(dtype: torch.dtype) -> None:
    t = torch.tensor(FATReLU(0.1).threshold, dtype=dtype)
    below = torch.nextafter(t, t.new_zeros(()))
    x = torch.stack([below, t, t.new_tensor(torch.inf), t.new_tensor(-torch.inf)])
    assert FATReLU(0.1)(x).tolist() == [0.0, t.item(), torch.inf, 0.0]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_name_makes_it_again(threshold: float) -> None:
    assert jump(FATReLU(threshold).name) == FATReLU(threshold)
    assert jump("relu") is None


def test_the_source_runs_and_agrees() -> None:
    room: dict[str, object] = {}
    exec(FATReLU(0.3).source(), room)
    x = every_pattern(torch.bfloat16)
    y = room["FATReLU"]()(x)
    assert torch.equal(y.view(torch.int16), FATReLU(0.3)(x).view(torch.int16))
    wide = x.float().requires_grad_()
    (slope,) = torch.autograd.grad(FATReLU(0.3)(wide).sum(), wide)
    assert torch.equal(room["df"](x).float(), slope)


def test_refusals() -> None:
    with pytest.raises(SpecError, match="above 0"):
        FATReLU(0.0)
    with pytest.raises(SpecError, match="takes a number"):
        jump("fatrelu(a)")
    with pytest.raises(BackendError, match="torch alone"):
        FATReLU().source("c")
