import pytest
import torch

import integrand as ig
from integrand.certificate import certify_output_only
from integrand.cli import main

OFFERED = {"relu": "exact", "tanh": "approximate", "silu": "refused"}


@pytest.mark.parametrize("name", OFFERED)
def test_what_is_offered_agrees_with_the_certificate(name):
    row = certify_output_only(ig.activation(name), torch.float16)
    assert row["offered"] == OFFERED[name]
    assert row.get("certified", False) == (row["offered"] == "exact")


def test_the_command_says_what_is_offered(capsys, tmp_path):
    path = tmp_path / "summary.json"
    assert main(["certify", "relu", "--output-only", "--json", str(path)]) == 0
    assert "relu bfloat16: exact" in capsys.readouterr().out
    assert '"output_only"' in path.read_text()
    assert main(["certify", "silu", "--output-only", "--dtype", "bf16"]) == 1
    assert "refused; f' changes sign" in capsys.readouterr().out
