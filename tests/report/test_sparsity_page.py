import copy
from typing import Any

from integrand.report.sparsity_page import headline, left, page, paper, point, results, subjects


def model(activation: str, form: str, sparsity: float, **more: Any) -> dict[str, Any]:
    points = [
        {"by": by, "value": value, "sparsity": s, "rise": rise, "tokens": 100}
        for by in ("cett", "top_k", "global")
        for value, s, rise in ((0.1, 0.5, 0.002), (0.2, sparsity, 0.01), (0.5, 0.95, 0.2))
    ]
    layers = [{"name": "model.layers.0.mlp", "sparsity": {"0.05": 0.1, "0.13": sparsity}}]
    return {
        **{"name": activation, "activation": activation, "form": form, "parameters": 2_000_000},
        **{"ffn_share": 0.6, "loss": 3.5, "perplexity": 33.1, "exact_zeros": 0.5, "reuse": 0.2},
        **{"cett_ppl_1": sparsity, "cett_ppl_1_cett": 0.13, "sparsity": {"0.2": 0.8}},
        **{"coactivation_gap": 0.3, "coactivation_lift": 0.2, "hot": 0.5, "dead": 0.0},
        **{"predictor_recall": None, "decode_speedup": None, "points": points, "layers": layers},
        **more,
    }


SUMMARY = {
    "kind": "sparsity",
    "command": "integrand sparsity runs/sparsity",
    "models": [model("silu", "gated", 0.6), model("relu2", "plain", 0.9)],
}


def test_the_sparsest_model_comes_first_and_names_are_those_of_the_field() -> None:
    rows = [[c.text for c in row] for row in results(SUMMARY).rows]
    assert [row[1] for row in rows] == ["ReLU²", "SwiGLU"]
    assert rows[0][5] == "90.0 %" and rows[0][-1] == "–"


def test_training_tokens_are_shown_where_they_differ() -> None:
    few, many = (
        model(a, "plain", 0.6, training_tokens=n) for a, n in (("gelu", 1e6), ("relu", 2e6))
    )
    assert "training tokens" not in results({"models": [few, few]}).head
    table = results({"models": [few, many, model("relu2", "plain", 0.9)]})
    assert table.head[2] == "training tokens" and len(table.head) == len(table.rows[0])
    assert [row[2].text for row in table.rows] == ["–", "1.000 M", "2.000 M"]


def test_the_headline_ranks_and_says_where_relu2_is() -> None:
    said = " ".join(headline(SUMMARY))
    assert "Sparsity at 1 % of perplexity: ReLU² 90.0 %, SwiGLU 60.0 %." in said
    assert "Predicted" not in said  # nothing was measured
    many = {**SUMMARY, "models": [model(a, "plain", 0.95) for a in ("relu", "gelu", "xielu")]}
    many["models"].append(model("relu2", "plain", 0.5))
    assert "ReLU² is 4 of 4" in " ".join(headline(many))


def test_what_a_predictor_spares_is_shown_with_what_it_costs() -> None:
    predictor = {"recall": 0.98, "sparsity": 0.7, "rise": 0.0079}
    cheap = {**predictor, "sparsity": 0.667, "rise": -0.0037}
    models = [model("relu", "plain", 0.9, predictor=predictor)]
    models += [model("relu2", "plain", 0.8, predictor=cheap)]
    said = "with its cost in perplexity: ReLU 70.0 % (+0.79 %), ReLU² 66.7 % (−0.37 %)."
    assert said in headline({"models": models})[1]
    table = results({"models": models})
    place = table.head.index("at a cost of")
    assert table.head[place - 1] == "predicted sparsity"
    assert [row[place].text for row in table.rows] == ["+0.79 %", "−0.37 %"]
    assert results(SUMMARY).rows[0][place].text == "–"


def test_a_line_of_the_paper_without_a_measurement_is_not_claimed() -> None:
    text = paper(SUMMARY).plain()
    # 1 - (1 - 0.9) (1 - 0.2)
    assert "92.0 % with ReLU²" in text and "54.0 %" in text
    assert "a predictor" not in text
    far = copy.deepcopy(SUMMARY)
    for p in far["models"][1]["points"]:
        p["sparsity"] = 0.5
    assert "no measured point between 85 and 95 %" in paper(far).plain()


def test_the_point_nearest_to_90_percent_is_the_papers_line() -> None:
    near = [(0.87, 0.01), (0.895, -0.002), (0.895, -0.002), (0.93, 0.03)]
    points = [{"by": "cett", "value": s, "sparsity": s, "rise": rise} for s, rise in near]
    text = paper({**SUMMARY, "models": [model("relu2", "plain", 0.9, points=points)]}).plain()
    assert "perplexity −0.20 % at 89.5 %\n" in text


def test_what_too_few_tokens_cannot_say_is_a_dash() -> None:
    few = {"reuse": None, "coactivation_gap": None, "coactivation_lift": None}
    short = {**SUMMARY, "models": [model("relu2", "plain", 0.9, **few)]}
    assert [c.text for c in results(short).rows[0]][9:12] == ["–"] * 3
    said = " ".join(headline(short)) + page(short)
    assert "nan" not in said and "Reuse:" not in said and "I/O" not in said


def test_a_point_is_taken_only_near_its_value() -> None:
    assert point(SUMMARY["models"][0], "cett", 0.21)["value"] == 0.2
    assert point(SUMMARY["models"][0], "cett", 0.3) is None


def test_the_page_stands_alone() -> None:
    text = page(SUMMARY)
    assert "<svg" in text and "src=" not in text and "SwiGLU" in text


def test_what_was_measured_is_said_of_these_models() -> None:
    alone = page({**SUMMARY, "models": [model("relu", "plain", 0.9, parameters=7_000_000_000)]})
    assert "One model of 7,000 million parameters, with a loss of 3.500 nats." in alone
    assert "batches" not in alone and "parameters and 100 billion tokens. Here:\n7,000" in alone
    sizes = [("silu", 3.5, 2_000_000), ("relu2", 3.25, 2_060_000)]
    runs = [
        model(act, "plain", 0.9, loss=loss, parameters=size, batches_sha256="a")
        for act, loss, size in sizes
    ]
    assert subjects(runs) == (
        "Runs of 2 to 2.06 million parameters on the same batches; losses: 3.250 to 3.500 nats."
    )
    for others in ({"batches_sha256": "b"}, {"batches_sha256": None}):
        assert "not known to have been trained on the same batches" in subjects(
            [runs[0], {**runs[1], **others}]
        )
    # checkpoints say nothing of their batches
    assert "not known" in subjects(SUMMARY["models"])


def test_blocks_that_were_not_measured_are_named_where_there_are_any() -> None:
    told = model("silu", "gated", 0.6, left={"layers.0.mlp": "'act' is <strange>"})
    assert left(SUMMARY) == []
    assert left({**SUMMARY, "models": [told]}) == [
        "silu without 'layers.0.mlp': 'act' is <strange>."
    ]
    assert "silu without &#x27;layers.0.mlp&#x27;: &#x27;act&#x27; is &lt;strange&gt;." in page(
        {**SUMMARY, "models": [told]}
    )
