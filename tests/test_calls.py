"""What the facade says to arguments of the wrong kind."""

import pytest
import torch

import integrand as ig

SPEC = ig.Spec(
    name="between",
    gradient="a*x + b",
    params={"a": ig.Param(0.8, above=0), "b": ig.Param(1.0, above="a")},
)
X = torch.linspace(-1, 1, 8)


@pytest.mark.parametrize("what", [None, 3, ["xielu"]])
def test_a_name_must_be_text(what):
    with pytest.raises(ig.SpecError, match="takes a catalogue name, got"):
        ig.activation(what)


@pytest.mark.parametrize("what", ["xielu", SPEC, None])
def test_only_activations_are_certified(what):
    with pytest.raises(ig.CertificationError, match="certify takes an Activation, got"):
        ig.certify(what, torch.bfloat16)


def test_x_must_be_a_tensor():
    for params in ({}, {"alpha_p": 1.0}):
        with pytest.raises(ig.BackendError, match="x must be a tensor, got list"):
            ig.activation("xielu")([1.0, 2.0], **params)


def test_numbers_out_of_bounds_are_refused():
    act = ig.derive(SPEC)
    with pytest.raises(ig.SpecError, match=r"'a' must be above 0 = 0, got -1\.2"):
        act(X, a=-1.2)
    with pytest.raises(ig.SpecError, match="'b' must be above a = 2, got 1"):
        act(X, a=2)
    assert torch.equal(act(X, a=2, b=3.0), act(X, a=torch.tensor(2.0), b=torch.tensor(3.0)))
    # a bound that is a tensor is not read: that would wait for the device
    assert act(X, a=torch.tensor([5.0]), b=3.0).shape == X.shape
