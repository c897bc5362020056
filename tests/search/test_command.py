"""integrand search: a small one, from the command line to its page."""

import json

import pytest

from integrand.cli import main

pytest.importorskip("optuna")


def test_a_search_from_the_command_line(tmp_path, capsys) -> None:
    (tmp_path / "space.toml").write_text(
        'name = "mine"\ngradient = "{s}*({a}*x + 1)"\n[choices]\ns = [1, 2]\na = [0, 1, 2]\n'
    )
    command = ["search", "smoke", "--out", str(tmp_path / "s"), "--strategy", "exhaustive"]
    command += ["--space", str(tmp_path / "space.toml"), "--json", str(tmp_path / "s.json")]
    assert main(command) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["evaluated"] == 3 and found["deduplicated"] == 3
    assert [r["name"] for r in found["rungs"]] == ["gaussian", "planted"]
    assert [r["scored"] for r in found["rungs"]] == [3, 1]
    assert found["front"] and found["front"][0]["gradient"] and found["confirmed"] == []
    assert (tmp_path / "s" / "report.html").exists()
    assert found["front"][0]["gradient"] in capsys.readouterr().out
    for wrong in (["--size", "0.2M"], ["--confirm", "3", "--size", "7B", "--size", "0.2M"]):
        assert main([*command, *wrong]) == 2
        assert "confirmation" in capsys.readouterr().err
    for wrong in (["--seed", "1"], ["--seed", "-1"], ["--confirm", "-1"]):
        assert main([*command, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_options_that_are_no_specs_are_counted_and_said(tmp_path, capsys) -> None:
    space = 'name = "mine"\ngradient = "{a}*x + 1"\nsource = "\U0001d6fc"\n[choices]\na = '
    command = ["search", "smoke", "--out", str(tmp_path / "s"), "--strategy", "exhaustive"]
    command += ["--space", str(tmp_path / "space.toml")]
    (tmp_path / "space.toml").write_text(space + '[1, "bad("]')
    assert main(command) == 2
    assert "the option 'bad(' of 'a'" in capsys.readouterr().err
    # fits by itself, and not twice
    long = '"1.' + "0" * 2400 + '"'
    twice = space.replace("{a}*x + 1", "{a}*x + {a}")
    (tmp_path / "space.toml").write_text(f"{twice}[{long}]")
    assert main(command) == 2
    assert "none of 1 candidates" in capsys.readouterr().err
    (tmp_path / "space.toml").write_text(f"{twice}[1, {long}]")
    assert main(command) == 0
    assert "1 candidates are no specs, such as: " in capsys.readouterr().out
