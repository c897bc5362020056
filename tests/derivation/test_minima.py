import pytest

import integrand as ig


@pytest.mark.parametrize("gradient", ["x", "tanh(x)", "sign(x)*0.5", "x if x > 0 else tanh(x)"])
def test_a_minimum_at_a_point_of_the_scan_is_found(gradient):
    assert ig.derive(ig.Spec(name="s", gradient=gradient)).properties.minima == ((0.0, 0.0),)


def test_a_flat_stretch_has_no_minimum():
    assert ig.activation("relu").properties.minima == ()
