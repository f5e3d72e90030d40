"""Recipes, cards and names from strangers: refused at once, in one line, without using memory."""

import json
import os
import subprocess
import sys

import pytest

from physgen import recipe
from physgen.console import print_mapping, print_scorecards
from physgen.errors import FormatError, InputError, RecipeError
from physgen.io.documents import parse_json, parse_yaml, read_text

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"anchors expand to more than \d+ values at line \d"),
        (MERGED, "anchors expand to more than"),
        ("&a [*a]", "an anchor within itself"),
        ("&a {k: {l: *a}}", "an anchor within itself"),
        ("[" * 50_000, "nested more than 50 levels"),
        ("- " * 3000, "nested more than 50 levels"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 99)), "levels"),
        ("1" * 10_000, "not YAML"),
        ("2001-99-99", "not YAML: month"),
        ("!!timestamp a", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
        ("a: \x1b[31m", "special characters"),
    ],
)
def test_yaml_that_explodes_or_is_none_is_one_line(text, said):
    with pytest.raises(FormatError, match=said) as caught:
        parse_yaml(text, "r.yaml")
    assert str(caught.value).startswith("r.yaml")
    assert "\n" not in str(caught.value)


def test_anchors_within_reason_are_read():
    text = "base: &base {a: 1}\none: {<<: *base, b: 2}\nmany: [*base, *base]"
    assert parse_yaml(text, "r.yaml") == {
        "base": {"a": 1},
        "one": {"a": 1, "b": 2},
        "many": [{"a": 1}, {"a": 1}],
    }


def test_times_and_leading_zeros_are_text():
    text = "[12:00:00, 190:20:30.15, 0123, 0, -7, 1_000, 0x1F, 1.5, .5, 1.0e-3, .inf]"
    assert parse_yaml(text, "r.yaml") == [
        *("12:00:00", "190:20:30.15", "0123"),
        *(0, -7, 1000, 31, 1.5, 0.5, 1e-3, float("inf")),
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\udc80", "1" * 10_000])
def test_json_that_is_none_is_one_line(text):
    with pytest.raises(FormatError, match=r"^card.json is not JSON"):
        parse_json(text, "card.json")


def test_what_is_no_regular_text_file_is_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "huge").write_bytes(b"")
    os.truncate(tmp_path / "huge", 2**40)
    (tmp_path / "latin").write_bytes(b"name: \xe9\xff")
    for name, said in {
        "pipe": "a device or a pipe",
        "zero": "a device or a pipe",
        "huge": "larger than 1 KiB",
        "latin": "not UTF-8",
        "": "is a directory",
        "hug": "no such file; did you mean 'huge'",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(FormatError, match=said):
            read_text(tmp_path / name, 1024)


@pytest.mark.parametrize("name", ["/abs/path", "..", "../up", "a/b", ".", "", "a\nb", "-x", "~"])
def test_a_name_that_leaves_the_runs_is_refused(tmp_path, name):
    with pytest.raises(RecipeError, match=r"name = .*it names the folder of the runs"):
        recipe.read("ising-rbm", {"name": name})


@pytest.mark.parametrize("content", [BOMB, "x" * 2**18, "name: [" + "[" * 10_000, "a: \xff"])
def test_train_refuses_a_hostile_recipe_and_leaves_nothing(tmp_path, content):
    path = tmp_path / "r.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        recipe.read(path)


def test_a_wrong_value_is_shown_in_part_only():
    with pytest.raises(RecipeError) as caught:
        recipe.read("ising-rbm", {"engine.steps": ["x" * 10_000]})
    assert len(str(caught.value)) < 400


ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\r"


def test_names_cannot_drive_the_terminal(capsys):
    assert str(InputError(f"no dataset {ESCAPES}")) == (
        "no dataset \\x1b]0;owned\\x07\\x1b[2J\\u202e\\r"
    )
    print_mapping(
        {f"name {ESCAPES}": {"unit": f"MeV{ESCAPES}", "more": [f"hint\n{ESCAPES}"]}}, False
    )
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_a_scorecard_cannot_drive_the_terminal(capsys):
    from physgen.validation.scorecard import Row, Scorecard

    card = Scorecard(
        rows=(Row(name=f"x {ESCAPES}[/bold]", metric="means", value=1.0, unit=ESCAPES),)
    )
    assert str(card).replace("\n", "").isprintable()
    print_scorecards({ESCAPES: card}, as_json=False)
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_the_command_line_refuses_in_one_line(tmp_path):
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(BOMB)
    done = subprocess.run(
        [sys.executable, "-m", "physgen", "train", str(bomb), "--runs", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert json.dumps(str(bomb))[1:-1] in done.stderr
    assert not (tmp_path / "runs").exists()
