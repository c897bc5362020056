import json
from collections.abc import Callable

import pytest

from integrand.models.width import relative_difference
from integrand.train.config import TrainConfig
from integrand.train.describe import describe
from integrand.train.matched import LARGEST_DIFFERENCE, variant_config
from integrand.train.published_recipes import (
    apertus_8b,
    apertus_small,
    relu2_wins_1b,
    xielu_1b,
    xielu_3b,
)
from integrand.train.recipes import Recipe

RECIPES = (xielu_1b, xielu_3b, apertus_8b, apertus_small, relu2_wins_1b)


@pytest.fixture(params=RECIPES, ids=lambda made: made.__name__)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return request.param()


@pytest.mark.parametrize(
    ("made", "parameters", "tokens"),
    [
        # the published figures to as many digits as they are published with
        (xielu_1b, "1.1325", "126.16"),
        (xielu_3b, "3.020", "125.83"),
        (apertus_8b, "8.05", "15000"),
        (relu2_wins_1b, "1.3", "100"),
    ],
)
def test_parameters_and_tokens_are_the_published_ones(
    made: Callable[[], Recipe], parameters: str, tokens: str
) -> None:
    recipe = made()
    for variant in recipe.variants:
        found = describe(variant_config(recipe.config, variant))
        for billions, wanted in ((found.parameters, parameters), (found.tokens, tokens)):
            digits = len(wanted.partition(".")[2])
            assert f"{billions / 1e9:.{digits}f}" == wanted, variant.name


def test_variants_have_equal_parameters_and_flops(recipe: Recipe) -> None:
    found = [describe(variant_config(recipe.config, v)) for v in recipe.variants]
    for each in found:
        assert relative_difference(each.parameters, found[0].parameters) <= LARGEST_DIFFERENCE
        assert each.flops_per_token == found[0].flops_per_token


def test_plain_widths_are_the_published_ones() -> None:
    for made, width in ((xielu_1b, 9216), (xielu_3b, 12_288), (apertus_8b, 21_504)):
        recipe = made()
        xielu = next(v for v in recipe.variants if v.activation == "xielu")
        assert variant_config(recipe.config, xielu).model.d_hidden == width


def test_recipes_survive_json(recipe: Recipe) -> None:
    for variant in recipe.variants:
        config = variant_config(recipe.config, variant)
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_tokenizer_is_the_file_given() -> None:
    assert xielu_1b("nemo/tokenizer.json").config.data.tokenizer == "nemo/tokenizer.json"
