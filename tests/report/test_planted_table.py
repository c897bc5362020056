"""What is lost is shown: seeds that never came near, and those on which chance was sooner."""

from integrand.report.planted_table import planted


def test_seeds_that_reached_a_distance_their_median_and_who_was_sooner():
    counts = {"random": [5, 30, None], "controller": [5, 20, 9], "evolution": [None, 40, None]}
    rows = [
        {"strategy": strategy, "seed": seed, "evaluations_to": {"0.1": count}}
        for strategy, found in counts.items()
        for seed, count in enumerate(found)
    ]
    # a seed that the others still lack is left out
    rows.append({"strategy": "random", "seed": 3, "evaluations_to": {"0.1": 1}})
    table = planted({"budget": 60, "rows": rows})
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["0.1", "random", "2 of 3", "30", "–"],
        ["0.1", "controller", "3 of 3", "9", "2 of 3"],
        ["0.1", "evolution", "1 of 3", "> 60", "0 of 3"],
    ]
