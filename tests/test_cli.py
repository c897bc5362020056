"""The command line: what it prints, what it leaves, and what it says to bad input."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from integrand.cli import main
from integrand.declared import declared
from integrand.errors import Error

JUMP = "1 if x > 0 else 0"
BAD = {
    "unknown name": (["derive", "xielo"], "xielu"),
    "unknown name to certify": (["certify", "xielo"], "xielu"),
    "undeclared parameter": (["derive", "a*x"], "'a'"),
    "code": (["derive", "__import__('os')"], "__import__"),
    "not integrable": (["derive", "1/x"], "1/x"),
    "breakpoints out of order": (["derive", "1 if x < 1 else 2 if x < 0 else 3"], "order"),
    "bound broken": (["derive", "a*x", "--param", "a=0.5,above=1"], "above 1"),
    "discontinuous function": (["derive", "--function", JUMP], "jump"),
    "missing file": (["derive", "nowhere.toml"], "nowhere.toml"),
    "malformed TOML": (["derive", "bad.toml"], "bad.toml"),
    "malformed parameter": (["derive", "a*x", "--param", "a"], "NAME=INIT"),
    "parameter not a number": (["derive", "a*x", "--param", "a=two"], "two"),
    "parameter of a name": (["derive", "xielu", "--param", "a=1"], "--param"),
    "values of unknown parameter": (["bench", "xielu", "--params", "alpha=1"], "alpha"),
    "certify nothing": (["certify"], "--all"),
    "unknown option": (["derive", "xielu", "--frob"], "--frob"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "unknown dtype": (["certify", "xielu", "--dtype", "bf8"], "bf8"),
    "no folder": (["report", "nowhere"], "nowhere"),
    "empty folder": (["report", "."], "derive.json"),
    "unknown variant": (["train", "xielo", "--out", "out"], "xielu"),
    "missing data": (["demo", "--data", "nowhere.txt", "--out", "out"], "nowhere.txt"),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("name = ")
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_status_2_and_nothing_written(case, capsys, tmp_path):
    args, quoted = BAD[case]
    if args[0] in ("derive", "certify", "bench"):
        args = [*args, "--json", "out.json"]
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("integrand: ")
    assert quoted in said.err
    assert [p.name for p in tmp_path.rglob("*")] == ["bad.toml"]


def test_bad_input_ends_a_real_process_without_traceback(tmp_path):
    done = _process("derive", "1/x")
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2
    assert err.count("\n") == 1 and "Traceback" not in err
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["bad.toml"]


def test_derive_prints_function_gradient_partials_path_and_verification(capsys):
    assert main(["derive", "xielu"]) == 0
    said = capsys.readouterr().out
    for part in ("f(x)", "f'(x)", "df/dalpha_p", "df/dalpha_n", "integral by", "verified", "C^1"):
        assert part in said


def test_derive_takes_a_text_with_parameters_and_keeps_its_result(capsys, tmp_path):
    text = "a*x + b if x > 0 else b*exp(x)"
    declared = ["--param", "a=2,above=b", "--param", "b=0.5,fixed", "--name", "mine"]
    assert main(["derive", text, *declared, "--json", "kept/out.json"]) == 0
    kept = json.loads((tmp_path / "kept" / "out.json").read_text())
    assert kept["name"] == "mine" and kept["text"] == text
    assert kept["values"] == {"a": 2.0, "b": 0.5}
    assert "trainable = false" in kept["toml"] and 'above = "b"' in kept["toml"]
    # the integral of b exp(x) anchored at f(0) = 0
    assert max(kept["verified"].values()) <= 1e-12
    Path("mine.toml").write_text(kept["toml"])
    assert main(["derive", "mine.toml", "--json", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())
    assert again["sha256"] == kept["sha256"]


def test_anchor_at_minus_infinity_makes_softplus_of_sigmoid(capsys):
    assert main(["derive", "sigmoid(x)", "--anchor", "-oo,0", "--json", "out.json"]) == 0
    kept = json.loads(Path("out.json").read_text())
    assert kept["anchor"] == ["-oo", 0.0]
    assert "softplus(x)" in kept["formula"]


@pytest.mark.parametrize("text", ["x-1", "x-b"])
def test_a_difference_is_no_name(text):
    assert declared(text, ["b=1"] if "b" in text else []).gradient == text


def test_a_text_may_begin_with_a_minus(capsys):
    assert main(["derive", "-x", "--json", "out.json"]) == 0
    assert json.loads(Path("out.json").read_text())["text"] == "-x"


def test_shown_torch_source_runs_and_agrees(capsys):
    import integrand as ig

    assert main(["show", "relu2", "--target", "torch"]) == 0
    source = capsys.readouterr().out
    compile(source, "shown", "exec")
    assert "integrand" not in [
        line.split()[1] for line in source.splitlines() if line[:7] == "import "
    ]
    assert main(["show", "relu2", "--target", "c"]) == 0
    assert "for (" in capsys.readouterr().out
    x = torch.tensor([-1.0, 3.0])
    assert ig.activation("relu2")(x).tolist() == [0.0, 9.0]


def test_show_folds_parameter_values_in(capsys):
    values = "alpha_p=166,alpha_n=41.25"
    assert main(["show", "xielu", "--target", "jax", "--params", values]) == 0
    shown = capsys.readouterr().out
    assert "at alpha_p = 166.0, alpha_n = 41.25, beta = 0.5" in shown and "def xielu(x):" in shown
    assert main(["show", "xielu", "--target", "c", "--params", "alpha_n=0.25"]) == 2
    assert "'alpha_n' must be above beta = 0.5, got 0.25" in capsys.readouterr().err


def test_certify_measures_at_given_values_and_keeps_rows(capsys):
    args = ["certify", "xielu", "--dtype", "bf16", "--params", "alpha_p=2,alpha_n=1"]
    assert main([*args, "--json", "out.json"]) == 0
    assert "certified" in capsys.readouterr().out
    kept = json.loads(Path("out.json").read_text())
    (row,) = kept["rows"]
    assert kept["kind"] == "certify"
    assert row["ok"] and row["params"]["alpha_p"] == 2 and row["max_ulp_f"] <= 1
    published = (
        "name dtype impl compiled params ok max_ulp_f max_ulp_df wrong_signs nonfinite worst_x"
    )
    assert set(published.split()) <= set(row)


def test_certify_takes_several_names_and_ranges_of_values(capsys):
    args = ["certify", "xielu", "xielu_beta", "--dtype", "bf16", "--param", "alpha_p=0.5..2"]
    assert main([*args, "--points", "3", "--json", "out.json"]) == 0
    assert "checked on every input at 3 points of the box" in capsys.readouterr().out
    rows = json.loads(Path("out.json").read_text())["rows"]
    assert [r["name"] for r in rows] == ["xielu", "xielu_beta"]
    assert all(r["points"] == 3 and r["params"]["alpha_p"] == [0.5, 2.0] for r in rows)


@pytest.mark.parametrize("options", [["--exhaustive"], ["--exhaustive", "--dtype", "bf16"]])
def test_exhaustive_means_fp32_unless_told_otherwise(options, monkeypatch, capsys):
    import integrand.certificate as certificate
    from integrand.certificate import certify

    asked = []

    def part(act, dtype, params, exhaustive, **others):
        asked.append((dtype, exhaustive))
        return certify(act, dtype, params, exhaustive=range(1 << 12), thorough=False)

    monkeypatch.setattr(certificate, "certify", part)
    assert main(["certify", "relu2", *options]) == 0
    assert asked == [(torch.bfloat16 if "bf16" in options else torch.float32, True)]


def test_a_failed_check_is_status_1(monkeypatch, capsys):
    import integrand.certificate as certificate
    from integrand.certificate import certify

    def wrong(act, dtype, params, **options):
        return certify(act, dtype, params, candidate=lambda x: x * 1.5, thorough=False)

    monkeypatch.setattr(certificate, "certify", wrong)
    assert main(["certify", "relu2", "--dtype", "bf16"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_bench_prints_ratios_to_named_baselines(capsys):
    args = [
        "bench",
        "relu2",
        "--dtype",
        "fp32",
        "--shape",
        "8",
        "16",
        "--rounds",
        "2",
        "--against",
        "silu",
    ]
    assert main([*args, "--json", "out.json"]) == 0
    assert "/silu" in capsys.readouterr().out
    kept = json.loads(Path("out.json").read_text())
    own = [r for r in kept["rows"] if r["impl"] == "auto"]
    assert {r["direction"] for r in own} == {"forward", "backward", "forward+backward"}
    assert all(r["ratio_silu"] > 0 and r["certified"] for r in own)


def test_list_names_every_row(capsys):
    import integrand as ig

    assert main(["list"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ig.names()


def test_help_is_on_stdout_with_status_0(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["derive", "--help"])
    assert stop.value.code == 0
    assert "--param" in capsys.readouterr().out


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    # slow enough to be interrupted: the whole catalogue
    process = _process("certify", "--all", "--dtype", "fp64")
    first = process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, first + rest
    assert "Traceback" not in rest
    assert rest.splitlines()[-1].startswith("integrand: stopped")


def test_importing_the_command_line_loads_none_of_what_commands_need():
    heavy = ("sympy", "tyro", "matplotlib", "jinja2", "transformers", "integrand.train")
    heavy += ("torch.distributed.tensor", "torch.distributed.fsdp")
    code = f"import sys, integrand.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_class_of_the_package_is_status_2_or_1(monkeypatch, capsys):
    import integrand.cli as cli

    for kind in Error.__subclasses__():

        def fail(kind=kind):
            raise kind("what must hold,\n what was got")

        monkeypatch.setattr(cli, "_parse", lambda args, fail=fail: fail)
        status = cli.main([])
        assert status == (1 if kind.__name__ == "CertificationError" else 2)
        assert capsys.readouterr().err == "integrand: what must hold, what was got\n"


def _process(*args: str) -> subprocess.Popen[str]:
    # a shell starts what runs in its background with ctrl-c ignored, and that is inherited; not by
    # preexec_fn, which forks a process that may have threads by now
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "integrand", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        signal.signal(signal.SIGINT, before)


def test_report_fills_the_tables_of_a_page(capsys, tmp_path):
    rows = [{"name": "relu", "impl": "c", "dtype": "bfloat16", "compiled": False, "params": {}}]
    (tmp_path / "r.json").write_text(json.dumps({"kind": "nothing", "rows": rows}))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: r.json -->\n<!-- end -->\nafter\n")
    assert main(["report", str(page)]) == 2
    assert "kind" in capsys.readouterr().err and "before" in page.read_text()
    assert main(["certify", "relu", "--dtype", "bf16", "--json", str(tmp_path / "r.json")]) == 0
    assert main(["report", str(page)]) == 0
    assert "| relu |" in page.read_text() or "| integrand |" in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nafter\n")


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_python_m_integrand_is_the_command_line_and_one_rank_of_torchrun_prints(
    rank: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["integrand", "show", "relu2"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("integrand", run_name="__main__")
    assert stop.value.code == 0
    assert ("relu2: f(x)" in capsys.readouterr().out) == (rank != "1")
