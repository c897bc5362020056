"""The demo at its smallest: everything runs, a killed one goes on, the page holds all of it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from integrand.cli import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, stderr) of a demo that was killed once and then run to its end."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    args = [sys.executable, "-m", "integrand", "demo", "--quick", "--out", str(folder)]
    first = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder / "certify.json").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(args, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "report.html")
    return folder, done.stderr


def test_a_killed_demo_goes_on_where_it_was(finished):
    _, said = finished
    kept = [line for line in said.splitlines() if "kept from before" in line]
    assert any("1/5 derive" in line for line in kept)
    assert any("2/5 certify" in line for line in kept)
    assert "Traceback" not in said


def test_every_stage_reports_progress_and_time_left(finished):
    _, said = finished
    for stage in ("1/5 derive", "2/5 certify", "3/5 bench", "4/5 train", "5/5 report"):
        lines = [line for line in said.splitlines() if stage in line]
        under_way = [line for line in lines if ": kept" not in line and ": done" not in line]
        assert lines and all("left" in line for line in under_way)
        # what is over has no time left
        assert not any("left" in line for line in lines if line not in under_way)


def test_page_has_every_part(finished):
    folder, _ = finished
    text = (folder / "report.html").read_text()
    for part in ("derive", "errors", "certificate", "speed", "training", "learned", "reproduce"):
        assert f'id="{part}"' in text
    assert "A smoke test, not evidence" in text
    assert str(folder) not in text.replace(f"--out {folder}", "")


def test_results_are_those_of_xielu_and_certified(finished):
    folder, _ = finished
    data = json.loads((folder / "report.json").read_text())
    own = [r for r in data["certify"]["rows"] if r["subject"] == "xielu"]
    assert own and all(r["ok"] for r in own)
    assert [v["name"] for v in data["study"]["variants"]] == ["SwiGLU", "ReLU2", "xIELU"]
    learned = data["study"]["curves"]["xIELU"]["activation"][-1]["values"]
    assert set(learned) == {"alpha_p", "alpha_n"}
    assert all(v > 0 for v in learned["alpha_p"]) and all(v > 0.5 for v in learned["alpha_n"])


def test_the_peer_is_measured_where_it_is_installed(finished):
    pytest.importorskip("transformers")
    folder, _ = finished
    peer = json.loads((folder / "certify.json").read_text())["peer"]
    # min(x, -1e-6) is a constant at 0, so its slope there is beta - alpha_n
    assert peer["at_zero"]["df"] < 0 < peer["at_zero"]["exact_df"]
    assert 0 < peer["mass_off_f"] < peer["share_off_f"]


def test_report_command_makes_the_same_page_from_the_stored_results(finished, capsys):
    folder, _ = finished
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before


def test_changed_results_of_a_stage_are_not_kept(finished, capsys):
    from integrand.demo import Run

    folder, _ = finished
    run = Run(folder)
    kept = json.loads((folder / "derive.json").read_text())
    run.stage("derive", ["other inputs"], lambda tell: {"kind": "derive", "name": "new"})
    assert json.loads((folder / "derive.json").read_text())["name"] == "new"
    (folder / "derive.json").write_text(json.dumps(kept))
