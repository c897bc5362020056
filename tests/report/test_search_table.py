from integrand.report.search_table import best_and_references


def row(key: str, loss: float, operation: str = "new", **more: object) -> dict[str, object]:
    scores = {"cheap": 1.0, "tiny": loss}
    return {
        "key": key,
        "name": key,
        "operation": operation,
        "function": key,
        "scores": scores,
        **more,
    }


def test_references_stand_at_their_place_behind_the_best():
    best = [row(f"f{i}", i / 10) for i in range(7)]
    known = row("silu", 0.55, "reference", places={"cheap": [3, 20], "tiny": [7, 9]})
    refused = {**known, "key": "lost", "scores": {"cheap": 2.0}}
    rungs = [{"name": "cheap", "scored": 20}, {"name": "tiny", "scored": 9}]
    ranking = sorted([*best, known], key=lambda r: r["scores"]["tiny"])  # type: ignore[index]
    table = best_and_references(
        {"rungs": rungs, "ranking": ranking, "references": [known, refused]}
    )
    assert [r[0].text for r in table.rows] == ["1", "2", "3", "4", "5", "7"]
    assert [c.text for c in table.rows[-1]] == ["7", "silu", "`f = silu`", "0.550", "3"]
    assert table.head == ["place at tiny, of 9", "name", "declared", "loss", "at cheap, of 20"]
