"""The studies that ship: matched sides, tokens per parameter, rates that follow their rule."""

import pytest

from integrand.errors import Error
from integrand.train.studies import check_rung, ladder, studies
from integrand.train.studies.recipes import SIZES, TOKENS_PER_PARAMETER, parameters


def test_sizes_are_what_they_are_called_and_see_enough_tokens() -> None:
    plan = ladder("python-docs", tuple(SIZES))
    for rung in plan.rungs:
        count = parameters(rung.config.model)
        assert float(rung.name.removesuffix("M")) * 1e6 == pytest.approx(count, rel=0.1)
        tokens = rung.config.steps * rung.config.batch_size * rung.config.context
        assert TOKENS_PER_PARAMETER * count <= tokens < 20.1 * count


def test_the_variants_of_the_ladder_are_matched() -> None:
    plan = ladder("python-docs", ("0.1M", "1.2M"))
    for rung in plan.rungs:
        counts = [found.weights for found in check_rung(plan, rung)]
        assert set(counts) == {parameters(rung.config.model)}


def test_activation_parameters_keep_the_rate_that_the_matrices_leave() -> None:
    plan = ladder("python-docs")
    swept, scaled = plan.rungs[1], plan.rungs[2]
    assert swept.tuned and not scaled.tuned
    ratio = scaled.config.model.d_model / swept.config.model.d_model
    assert scaled.config.activation_lr_scale == ratio and swept.config.activation_lr_scale == 1


def test_softsign_and_each_alpha_alone_have_a_comparison_of_their_own() -> None:
    pairs = ladder("python-docs", ("0.1M",)).to_dict()["pairs"]
    for pair in (
        ["xIELU", "xSSSLUR2"],
        ["xIELU fixed alphas", "xIELU alpha_p only"],
        ["xIELU fixed alphas", "xIELU alpha_n only"],
    ):
        assert pair in pairs


def test_a_published_run_gets_seeds_at_its_own_rate() -> None:
    plan = studies("xielu-1b", tokenizer="t.json", accumulate=88, seeds=(2, 3))
    (rung,) = plan.rungs
    assert (rung.tuned, rung.config.lr, rung.config.accumulate) == (False, 8e-4, 88)
    assert (plan.seeds_at_least, plan.seeds_at_most) == (2, 3)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("lader", {}, "studies are ladder, smoke"),
        ("smoke", {"sizes": ("0.1M",)}, "sizes belong to the ladder"),
        ("ladder", {"sizes": ("1.2M", "0.1M")}, "sizes must ascend"),
        ("ladder", {"sizes": ("7B",)}, "sizes are 0.05M"),
        ("ladder", {"tokenizer": "t.json"}, "trains a tokenizer of its own"),
    ],
)
def test_what_no_study_can_do_is_one_sentence(name: str, given: dict, said: str) -> None:
    with pytest.raises(Error, match=said):
        studies(name, **given)
