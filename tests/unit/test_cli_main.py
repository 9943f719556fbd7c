"""The command as a whole: help that teaches, usage errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hybridnet.cli import demo, doctor, lab, main, stats


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for module in (demo, doctor, lab, stats):
        assert module.SUMMARY in text


@pytest.mark.parametrize("name", ["demo", "doctor", "lab", "stats"])
def test_help_of_each_subcommand_has_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"hybridnet {name}" in text


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["lab"], ["lab", "exec", "c"], ["stats", "x"]])
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["lab", "up", "--name", "a/b"],
        ["lab", "up", "--queues", "0"],
        ["lab", "up", "--mtu", "99999"],
        ["demo", "--seconds", "0"],
        ["stats", "--interval", "0"],
    ],
)
def test_values_out_of_range_are_one_sentence_and_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hybridnet {argv[0]}: ")
    assert error.count("\n") == 1


def test_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m hybridnet.cli doctor --json | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout == "{\n"
