"""The table of a confirmation."""

from typing import Any

from integrand.report.confirmed_table import confirmed


def against(reference: str, size: str, **said: Any) -> dict[str, Any]:
    row = {"reference": reference, "size": size, "difference": -0.0123, "ci": [-0.02, -0.001]}
    return row | {"seeds": 6, "verdict": "better"} | said


def test_a_line_per_size_and_the_fewest_seeds() -> None:
    missing = {"difference": None, "ci": None, "seeds": 0, "verdict": "cannot tell"}
    one = {"name": "g", "verdict": "cannot tell", "against": [
        against("SwiGLU", "0.05M"), against("xIELU", "0.05M", seeds=5, ci=None, verdict="worse"),
        against("SwiGLU", "0.2M"), against("xIELU", "0.2M", **missing),
    ]}  # fmt: skip
    table = confirmed([one, {**one, "name": "h"}])
    assert table.head[3:] == ["against SwiGLU", "against xIELU", "seeds"]
    assert [[c.text for c in r] for r in table.rows[:2]] == [
        ["g", "cannot tell", "0.05M", "-0.012 [-0.020, -0.001] better", "-0.012 worse", "5"],
        ["", "", "0.2M", "-0.012 [-0.020, -0.001] better", "–", "0"],
    ]
    assert [c.kind for c in table.rows[0][3:5]] == ["good", "bad"]
    assert table.breaks == {0, 2} and table.rows[2][0].text == "h"
