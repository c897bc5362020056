"""Which activations `swap` would replace in every model type that transformers knows.

python benchmarks/swap_models.py [TYPE ...]

Models are built on the meta device from their default configs, cut to three layers. A model type
that the config alone cannot build (it needs another package or more arguments) is counted as such.
"""

import contextlib
import json
import re
import sys
import warnings
from collections import Counter

import torch

from integrand.errors import SwapError
from integrand.models.swap_sites import default_sites, survey

LAYERS = [
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("encoder_layers", "decoder_layers", "encoder_num_hidden_layers", "layer_types"),
]


def build(name: str) -> torch.nn.Module:
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]()
    for field in LAYERS:
        value = getattr(config, field, None)
        # some derive one from another
        with contextlib.suppress(AttributeError):
            if isinstance(value, int):
                setattr(config, field, min(3, value))
            elif isinstance(value, list):
                setattr(config, field, value[:3])
    with torch.device("meta"):
        return AutoModel.from_config(config)


def outcome(name: str) -> tuple[str, list[str]]:
    try:
        model = build(name)
    except Exception as error:  # whatever a stranger's constructor raises
        return "not built", [f"{type(error).__name__}: {error}".splitlines()[0][:100]]
    try:
        sites = default_sites(survey(model))
    except SwapError as error:
        text = str(error)
        doubtful = "not certain: " in text or "has the linear maps" in text
        return ("refused" if doubtful else "none"), [text]
    return "replaced", sorted({re.sub(r"\.\d+", ".*", site.name) for site in sites})


def main() -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for name in sys.argv[1:] or list(CONFIG_MAPPING):
        what, details = outcome(name)
        counts[what] += 1
        print(json.dumps({"model": name, "outcome": what, "details": details}), flush=True)
    print(json.dumps(counts), file=sys.stderr)


if __name__ == "__main__":
    main()
