"""Tables of results."""

import pytest

from integrand.report.tables import (
    Cell,
    Table,
    against_compile,
    baseline_of,
    certificates,
    exhaustive,
    losses,
    number,
    share,
    speeds,
)


def bench_row(name="xielu", impl="auto", compiled=False, ratios=None):
    return {
        "name": name, "impl": impl, "compiled": compiled, "dtype": "float32",
        "direction": "forward", "shape": [4, 8], "threads": 1, "median_s": 0.002,
        "saved_bytes": 4.0, "certified": True,
        **{f"ratio_{k}": v for k, v in (ratios or {}).items()},
    }  # fmt: skip


def test_html_escapes_and_markdown_escapes():
    table = Table(["a<b", "n"], [[Cell("<script>|"), Cell("1", "n")]])
    assert "<script>" not in table.html() and "a&lt;b" in table.html()
    head, line, row = table.markdown().splitlines()
    assert head == "| a<b | n |" and line == "|---|---:|" and "\\|" in row


def test_plain_columns_are_aligned_numbers_to_the_right():
    table = Table(["name", "n"], [[Cell("a"), Cell("10", "n")], [Cell("long"), Cell("9", "n")]])
    assert table.plain().splitlines() == ["name   n", "a     10", "long   9"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (9461.2, "9,461"), (0.0, "0"), (0.5, "0.5"), (8.7e33, "8.7e+33"), (410.2, "410")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_share_is_zero_only_where_nothing_is_off():
    assert share(0.0) == "0 %" and share(1e-7) != "0 %"


def test_every_lost_case_is_named_and_only_those():
    row = bench_row(ratios={"silu": 1.3, "compiled": 0.8, "transformers": 0.1})
    said = losses([row, bench_row("F.silu", "torch", ratios={"silu": 1.0, "compiled": 2.0})])
    assert len(said) == 1 and "1.30 times as long as F.silu" in said[0]


def test_a_lost_ratio_is_marked_bad_and_a_won_one_good():
    shown = speeds([bench_row(ratios={"silu": 1.3, "compiled": 0.8})])
    kinds = {c.text: c.kind for c in shown.rows[0]}
    assert kinds["1.30"] == "n bad" and kinds["0.80"] == "n good"


def test_baselines_are_known_by_their_rows():
    assert baseline_of(bench_row()) is None
    assert baseline_of(bench_row("F.silu", "torch")) == "silu"
    assert baseline_of(bench_row(impl="reference", compiled=True)) == "compiled"
    assert baseline_of(bench_row("XIELUActivation", "transformers")) == "transformers"


def test_a_failed_certificate_says_so():
    row = {
        "name": "xielu", "subject": "Peer", "compiled": False, "params": {"alpha_p": 0.8},
        "dtype": "bfloat16", "max_ulp_f": 3.0, "max_ulp_df": 2.0, "share_off_f": 0.1,
        "share_off_df": 0.1, "mass_off_f": 0.0, "mass_off_df": 0.0, "wrong_signs": 1200,
        "nonfinite": 0, "ok": False, "exhaustive": True,
    }  # fmt: skip
    assert certificates([row]).rows[0][-1] == Cell("fails", "bad")
    assert certificates([{**row, "ok": True}]).rows[0][-1].text == "certified"
    assert "1,200" in certificates([row]).html()


def test_a_certificate_of_all_fp32_inputs_names_its_worst_octaves():
    octaves = [
        {"output": name, "low": low, "high": 2 * low, "worst_x": 1.5 * low}
        for name, low in [("f", 2.0), ("f", 8.0), ("df", 16.0)]
    ]
    row = {
        "subject": "xielu", "params": {"alpha_p": [0.05, 10]}, "max_ulp_f": 0.9, "max_ulp_df": 1.1,
        "beyond_f": 0, "beyond_df": 110, "checked": 1 << 32, "ok": True,
        "worst_octaves": octaves,
    }  # fmt: skip
    texts = [cell.text for cell in exhaustive([row]).rows[0]]
    # of each output the first, which is its worst
    assert texts[3] == "2 … 4" and texts[5] == "16 … 32"
    assert texts[1] == "α_p = 0.05 … 10" and texts[7] == "110" and texts[-1] == "certified"


def test_the_headline_is_against_the_fastest_compiled_formula():
    assert (
        against_compile(bench_row(ratios={"compiled": 0.01, "transformers_compiled": 0.8})) == 0.8
    )
    assert against_compile(bench_row(ratios={"silu": 1.0})) is None
