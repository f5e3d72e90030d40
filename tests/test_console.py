"""What is printed in a terminal, and where there is none."""

import io
import re
import sys
import threading
import warnings
from pathlib import Path

import pytest

from physgen import console
from physgen.console import bars, configure_messages, print_mapping, print_scorecards
from physgen.validation.scorecard import Row, Scorecard


def test_facts_are_printed_whole_without_what_is_empty(capsys):
    command = "train data.path=" + "/long" * 60 + " 'data.fields=[a,b]'"
    nothing = {"problem": None, "hints": [], "units": {}, "name": ""}
    print_mapping(
        {"hints": [command, "more"], "deep": {"few": [1, 2], "rows": [{"n": 0}], **nothing}}, False
    )
    assert capsys.readouterr().out.splitlines() == [
        "hints",
        f"├── {command}",
        "└── more",
        "deep",
        "├── few: 1, 2",
        "└── rows",
        "    └── 0",
        "        └── n: 0",
    ]


def seconds_hidden(text):
    return re.sub(r"  \d+\.\d s$", "  T", text, flags=re.MULTILINE).splitlines()


def test_without_a_terminal_each_stage_is_a_line_when_it_begins_and_one_when_it_ends(capsys):
    with bars(quiet=False) as progress:
        progress("a: train", 0, 200, {})
        assert capsys.readouterr().err == "a: train: begins\n"
        progress("a: train", 100, 200, {"loss": 2.0})
        assert capsys.readouterr().err == ""
        progress("a: train", 200, 200, {"loss": 1.23456, "ess": 0.5})
        progress("a: train", 200, 200, {})
        ended = "a: train: 200/200  loss 1.235  ess 0.5  T"
        assert seconds_hidden(capsys.readouterr().err) == [ended]
    assert capsys.readouterr().err == ""


def test_a_stage_that_lasts_says_how_far_it_is(monkeypatch):
    lines, third = [], threading.Event()

    def echo(text, err):
        lines.append(text)
        if len(lines) == 3:
            third.set()

    monkeypatch.setattr("physgen.console.REMINDER_S", 0.001)
    monkeypatch.setattr("typer.echo", echo)
    with bars(quiet=False) as progress:
        progress("a: validate", 1, 5, {})
        assert third.wait(60)  # Nothing more is reported, and still there are lines.
        progress("a: validate", 5, 5, {})
    assert lines[0] == "a: validate: begins"
    assert lines[1].startswith("a: validate: 1/5  ")
    assert lines[-1].startswith("a: validate: 5/5  ")


def test_a_stage_that_is_left_says_how_far_it_came(capsys):
    def work():
        with bars(quiet=False) as progress:
            progress("a: train", 3, 200, {"loss": 2.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    begun, left = seconds_hidden(capsys.readouterr().err)
    assert (begun, left) == ("a: train: begins", "a: train: 3/200  loss 2  T")


def test_quiet_is_quiet(capsys):
    with bars(quiet=True) as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


MU, SIGMA = "\N{GREEK SMALL LETTER MU}", "\N{GREEK SMALL LETTER SIGMA}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_unicode_is_told_all_in_ascii(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    configure_messages()
    row = Row(
        name="χ²/ndf of the ⟨φ⟩ \N{EN DASH} \N{SNOWMAN}", metric="means", value=1.5, error=0.25
    )
    print_scorecards({"table": Scorecard(rows=(row,))}, as_json=False)
    print_mapping({"file": {"unit": f"{MU}m ± 2{SIGMA}", "shape": [1]}}, as_json=False)
    out.flush()
    told = out.buffer.getvalue().decode(encoding)
    assert "1.5" in told
    if encoding == "ascii":
        assert "chi2/ndf of the <phi> - ?" in told
        assert "|-- unit: mum +- 2sigma" in told
    if encoding == "latin-1":
        assert "|-- unit: mum ± 2sigma" in told
    if encoding == "utf-8":
        assert row.name in told


def test_the_table_of_scorecards_escapes_markup_and_counts_what_it_leaves_out(capsys):
    limited = Row(name="x[bold]", metric="m", value=1.0, error=0.1, tolerance=2.0, verdict="pass")
    rows = (limited, Row(name="quiet", metric="histograms", value=2.0))
    print_scorecards({"run [1]": Scorecard(rows=rows)}, as_json=False)
    shown = capsys.readouterr().out
    assert "run [1]" in shown
    assert "x[bold]" in shown
    assert "1.00(10)" in shown
    assert "quiet" not in shown
    assert "and 1 more in the report" in shown


def test_warnings_are_said_as_errors_are_and_those_of_others_with_their_place(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # Restored afterwards.
    configure_messages()
    own = str(Path(console.__file__).parent / "transforms" / "showers.py")
    assert warnings.formatwarning("stray", UserWarning, own, 7) == "warning: stray\n"
    other = warnings.formatwarning("old", DeprecationWarning, "/lib/other.py", 7)
    assert other == "/lib/other.py:7: DeprecationWarning: old\n"
