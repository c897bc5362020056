"""A study with a known truth, from its records to its verdicts."""

import json

import pytest
from scipy import stats

from integrand.errors import DataError
from integrand.train.files import read_json
from integrand.train.studies import summarise


@pytest.fixture(scope="module")
def folder(planted_study, tmp_path_factory):
    return planted_study(tmp_path_factory.mktemp("study") / "planted")


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(folder)


def rows(summary, **wanted):
    return [r for r in summary["comparisons"] if all(r[k] == v for k, v in wanted.items())]


def test_the_planted_effect_is_found_at_every_rung_and_no_other(summary):
    for row in rows(summary, b="xIELU", at="tokens"):
        assert row["verdict"] == "better" and row["ci"][0] < -0.05 < row["ci"][1]
    assert {r["verdict"] for r in rows(summary, b="ReLU2", at="tokens")} == {"cannot tell"}


def test_a_comparison_is_that_of_the_records(folder, summary):
    runs = [read_json(p) for p in sorted((folder / "records").glob("0.2M-*-main-*.json"))]
    losses = {v: [r["loss"] for r in runs if r["variant"] == v] for v in ("SwiGLU", "xIELU")}
    (row,) = rows(summary, rung="0.2M", b="xIELU", at="tokens")
    known = stats.ttest_rel(losses["xIELU"], losses["SwiGLU"])
    assert row["p"] == pytest.approx(known.pvalue, rel=1e-9)
    (variant,) = [v for v in summary["variants"] if (v["rung"], v["name"]) == ("0.2M", "xIELU")]
    assert variant["loss_mean"] == pytest.approx(sum(losses["xIELU"]) / 5)
    low, high = variant["loss_ci"]
    assert (low + high) / 2 == pytest.approx(variant["loss_mean"])


def test_time_counts_at_equal_wall_clock(summary):
    # loss falls with tokens: a step 1.1 times as long costs, one of 0.9 gains
    for rung in summary["rungs"]:
        for b, sign in (("xIELU", 1), ("ReLU2", -1)):
            (at_time,) = rows(summary, rung=rung["name"], b=b, at="wall_clock")
            (at_tokens,) = rows(summary, rung=rung["name"], b=b, at="tokens")
            assert (at_time["difference"] - at_tokens["difference"]) * sign > 0


def test_an_advantage_saves_tokens(summary):
    measured = [r for r in rows(summary, b="xIELU", at="tokens_to_equal_loss") if r["n"]]
    assert measured and all(-1 < r["difference"] < 0 for r in measured)
    assert all(r["unit"] == "share of tokens" for r in measured)


def test_the_detectable_effect_is_that_of_the_largest_spread(summary):
    each = [r["min_detectable_effect"] for r in rows(summary, at="tokens")]
    assert summary["min_detectable_effect"] == max(each) > 0
    assert all(r["seeds_needed"] >= 5 for r in summary["rungs"])


def test_ladder_and_trend_follow_the_planted_law(summary):
    for row in summary["ladder"]["fits"]:
        # FLOPs grow with the square of the parameters: 3 decades; E and a trade against each other
        assert row["fit"]["form"].startswith("E +") and 0 < row["fit"]["a"] < 0.5
    assert {t["verdict"] for t in summary["ladder"]["trends"]} == {"cannot tell"}


def test_the_planted_fall_of_nonlinearity_is_reproduced(summary):
    by = {(r["rung"], r["measure"]): r["verdict"] for r in summary["depth"]}
    assert by["0.2M", "nonlinearity"] == "reproduced" and by["0.2M", "alpha_p"] == "falls"
    assert by["0.2M", "alpha_n"] == "cannot tell"


def test_rates_are_chosen_and_shown(summary):
    assert len(summary["tuning"]) == 12
    assert all(t["best"] == 3e-3 and not t["at_edge"] and t["used"] for t in summary["tuning"])


def test_the_summary_has_the_published_keys_and_is_json(summary):
    needed = {
        "name",
        "parameters",
        "tokens",
        "seeds",
        "loss_mean",
        "loss_ci",
        "bits_per_byte",
        "wall_s",
    }
    assert all(needed <= set(v) for v in summary["variants"])
    assert all({"a", "b", "at", "difference", "ci", "verdict"} <= set(c)
               for c in summary["comparisons"])  # fmt: skip
    assert summary["data_sha256"] == "d" * 64 and summary["command"] == "integrand study planted"
    assert all(c["ok"] for c in summary["checks"]) and not summary["missing"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_an_unfinished_study_says_what_is_missing(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=2, seeds=2)
    for path in (folder / "records").glob("*-short-*"):
        path.unlink()
    for path in (folder / "records").glob("0.8M-xIELU-main-*"):
        path.unlink()
    (folder / "timing" / "0.2M.json").unlink()
    found = summarise(folder)
    assert found["missing"] == [{"rung": "0.8M", "variant": "xIELU", "seed": s} for s in (0, 1)]
    assert found["progress"]["main"] == {"finished": 10, "planned": 12}
    assert found["progress"]["short"] == {"finished": 0, "planned": 12}
    reasons = {(r["rung"], r["b"], r["at"]): r.get("reason", "") for r in found["comparisons"]}
    assert "step time of xIELU" in reasons["0.2M", "xIELU", "wall_clock"]
    assert "no short run" in reasons["0.8M", "ReLU2", "wall_clock"]
    assert "share no finished seed" in reasons["0.8M", "xIELU", "tokens"]
    assert all("at least 3 rungs" in f["reason"] for f in found["ladder"]["fits"])
    json.dumps(found, allow_nan=False)


def test_ablations_are_compared_with_their_reference_where_they_were_trained(
    planted_study, tmp_path
):
    folder = planted_study(tmp_path / "s", rungs=2)
    pairs = [["SwiGLU", "ReLU2"], ["ReLU2", "xIELU"]]
    both = [{"name": name, "variants": []} for name in ("0.2M", "0.8M")]
    both[1]["variants"] = [{"name": "SwiGLU"}, {"name": "ReLU2"}]
    for path in (folder / "records").glob("0.8M-xIELU-*"):
        path.unlink()
    edit(folder / "study.json", pairs=pairs, rungs=both)
    found = summarise(folder)
    made = [(r["rung"], r["a"], r["b"]) for r in rows(found, at="tokens")]
    assert made == [("0.2M", *pairs[0]), ("0.2M", *pairs[1]), ("0.8M", *pairs[0])]
    # one pair to a reference: nothing to correct for
    assert all(r["p_corrected"] == r["p"] for r in found["comparisons"])
    assert found["missing"] == []
    # 1.1 / 0.9 times the time of ReLU2 costs more than the planted 0.05 gains
    (row,) = rows(found, b="xIELU", at="wall_clock")
    assert row["verdict"] == "worse"
    assert rows(found, b="xIELU", at="tokens")[0]["verdict"] == "better"


def test_a_diverged_run_is_named_and_leaves_its_pair(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=1)
    edit(folder / "records" / "0.2M-xIELU-main-3-0.003.json", loss=None, diverged=40,
         batches_sha256="cut short")  # fmt: skip
    found = summarise(folder)
    (row,) = [v for v in found["variants"] if v["name"] == "xIELU"]
    assert row["diverged"] == [3] and row["seeds"] == [0, 1, 2, 4]
    assert rows(found, b="xIELU", at="tokens")[0]["n"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_sha256": "e" * 64}, "data_sha256 must be equal within all runs"),
        ({"batches_sha256": "f" * 64}, "batches_sha256 must be equal within 0.2M, main, seed 0"),
        ({"lr": 1.0}, "lr must be equal within 0.2M, xIELU, main"),
        ({"seed": 1, "batches_sha256": "0.2M-main-1"}, "a run must have one record, got 2"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(planted_study, tmp_path, change, said):
    folder = planted_study(tmp_path / "s", rungs=1)
    edit(folder / "records" / "0.2M-xIELU-main-0-0.003.json", **change)
    with pytest.raises(DataError, match=said):
        summarise(folder)


def test_survivors_of_divergence_win_nothing(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=1, effects={"SwiGLU": 0.0, "xIELU": -0.5})
    edit(folder / "records" / "0.2M-xIELU-main-3-0.003.json", loss=None, diverged=40)
    (row,) = rows(summarise(folder), b="xIELU", at="tokens")
    assert row["difference"] < -0.4 and row["n"] == 4
    assert (row["verdict"], row["diverged"]) == ("cannot tell", {"xIELU": [3]})


def test_unequal_parameters_fail_their_check(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=1)
    edit(folder / "records" / "0.2M-xIELU-main-0-0.003.json", parameters=201_000)
    failed = [c for c in summarise(folder)["checks"] if not c["ok"]]
    assert [c["what"] for c in failed] == ["weights at 0.2M"]


def test_a_folder_without_a_plan_or_runs_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"study\.json"):
        summarise(tmp_path)
    (tmp_path / "study.json").write_text('{"rungs": [], "variants": [], "seeds": []}')
    with pytest.raises(DataError, match="got none"):
        summarise(tmp_path)


def edit(path, **changes):
    path.write_text(json.dumps({**read_json(path), **changes}))


def test_parameters_of_an_activation_may_differ(planted_study, tmp_path):
    folder = planted_study(tmp_path / "s", rungs=1)
    for seed in range(5):
        path = folder / "records" / f"0.2M-xIELU-main-{seed}-0.003.json"
        edit(path, parameters=200_000 + 2 * 4 * 300)
        edit(path, activation_values={name: [[0.8] * 301] * 4 for name in ("alpha_p", "alpha_n")})
    # 8 of the first variant's own parameters were counted among its weights
    assert all(c["ok"] for c in summarise(folder)["checks"])
