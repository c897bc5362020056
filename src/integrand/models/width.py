"""Equal parameters: how wide a plain block must be to weigh what a gated one weighs."""

from integrand.errors import Error


def plain_width(gated_width: int, multiple: int = 1) -> int:
    """1.5 * gated_width to the nearest multiple: two matrices then hold what three did.

    The rule of arXiv:2411.13010 (6144 gated, 9216 plain). Exact for an even width and multiple 1.
    """
    if gated_width < 1 or multiple < 1:
        raise Error(
            f"widths and multiples must be at least 1, got {gated_width} and {multiple}; "
            "pass the hidden width of the gated block"
        )
    return max(1, round(1.5 * gated_width / multiple)) * multiple


def relative_difference(count: float, reference: float) -> float:
    """|count - reference| / reference."""
    return abs(count - reference) / reference
