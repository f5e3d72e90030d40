"""What is printed in a terminal, and where there is none."""

from physgen.console import print_mapping


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
