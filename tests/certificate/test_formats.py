from __future__ import annotations

import numpy as np
import pytest
import torch

from integrand.certificate.formats import FORMATS, format_of, normal_mass


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_spacing_is_the_gap_between_neighbours(fmt) -> None:  # type: ignore[no-untyped-def]
    least = float(torch.finfo(fmt.dtype).smallest_normal)
    for x in (0.0, least / 4, least, 1.0, 1.5, 3.0, 1000.0):
        gap = fmt.neighbour(x, up=True) - x
        assert fmt.spacing(np.array([x, -x, x + gap / 3])).tolist() == [gap] * 3


def test_every_half_precision_pattern_occurs_once() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        bits = format_of(dtype).patterns().view(torch.int16)
        assert len(bits.unique()) == 65536


def test_the_normal_mass_of_all_patterns_is_one() -> None:
    x = format_of(torch.bfloat16).patterns().double().numpy()
    mass = normal_mass(x)
    assert mass.sum() == pytest.approx(1, abs=1e-12)
    # P(|N(0,1)| > 3), up to the rounding interval of 3 (1/64 on either side, density 0.0044)
    assert mass[np.abs(x) > 3].sum() == pytest.approx(0.0027, abs=2e-4)
    # +0 and -0 are the same value and share what rounds to it
    assert mass[x == 0][0] == mass[x == 0][1] > 0
