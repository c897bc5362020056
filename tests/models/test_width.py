import pytest

from integrand.errors import Error
from integrand.models.width import plain_width


@pytest.mark.parametrize(("gated", "plain"), [(6144, 9216), (8192, 12288), (256, 384)])
def test_published_widths(gated: int, plain: int) -> None:
    assert plain_width(gated) == plain


@pytest.mark.parametrize("gated", [344, 683, 2730, 11008])
@pytest.mark.parametrize("multiple", [1, 8])
def test_two_matrices_weigh_what_three_did(gated: int, multiple: int) -> None:
    wide = plain_width(gated, multiple)
    assert wide % multiple == 0
    assert abs(2 * wide - 3 * gated) <= multiple


def test_nonsense_is_refused() -> None:
    with pytest.raises(Error, match="at least 1"):
        plain_width(0)
