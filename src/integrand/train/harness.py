"""Downstream tasks, through EleutherAI's lm-evaluation-harness."""

import importlib
from collections.abc import Sequence

from integrand.errors import Error


def evaluate(
    model: str, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 8
) -> dict[str, dict[str, float]]:
    """{task: {metric: value}} of a model that transformers loads, by the harness's own names.

    integrand is imported here, so that exported activations are known.
    """
    try:
        lm_eval = importlib.import_module("lm_eval")
    except ImportError:
        raise Error("evaluate needs the library lm_eval; pip install 'lm_eval[hf]'") from None
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model},
        tasks=list(tasks),
        limit=limit,
        batch_size=batch_size,
    )
    return {
        task: {name: float(v) for name, v in values.items() if isinstance(v, int | float)}
        for task, values in found["results"].items()
    }
