"""
Requirements on what a job may be written as: every accepted form, and for each broken rule one
line that names the field and what would be right.
"""

from typing import Any

import pytest

from queuectl.errors import UsageError
from queuectl.jobspec import decode_json, fields_of, fields_of_options, make_spec
from queuectl.protocol import JobSpec

NOW = 1_700_000_000_000


def spec(document: object, options: dict[str, object] | None = None) -> JobSpec:
    return make_spec(fields_of(document, NOW), fields_of_options(options or {}, NOW))


def refusal(document: object, options: dict[str, object] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        spec(document, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"command": "make"}, JobSpec(command="make")),
        ({"argv": ["make", ""]}, JobSpec(argv=["make", ""])),
        (
            {"id": "job1", "command": "x", "queue": "heavy", "cwd": "/srv", "hold": True},
            JobSpec(id="job1", command="x", queue="heavy", cwd="/srv", hold=True),
        ),
        ({"command": "x", "priority": "high"}, JobSpec(command="x", priority=10)),
        ({"command": "x", "priority": "medium"}, JobSpec(command="x", priority=0)),
        ({"command": "x", "priority": "low"}, JobSpec(command="x", priority=-10)),
        ({"command": "x", "priority": "-3"}, JobSpec(command="x", priority=-3)),
        ({"command": "x", "max_retries": "4"}, JobSpec(command="x", max_retries=4)),
        ({"command": "x", "max-retries": 0}, JobSpec(command="x", max_retries=0)),
        ({"command": "x", "max_tries": "4"}, JobSpec(command="x", max_retries=3)),
        ({"command": "x", "max-attempts": 1}, JobSpec(command="x", max_retries=0)),
        ({"command": "x", "timeout": 90}, JobSpec(command="x", timeout_ms=90_000)),
        ({"command": "x", "timeout": 0.5}, JobSpec(command="x", timeout_ms=500)),
        ({"command": "x", "timeout": "5m"}, JobSpec(command="x", timeout_ms=300_000)),
        ({"command": "x", "timeout": None}, JobSpec(command="x")),
        ({"command": "x", "kill-after": "0"}, JobSpec(command="x", kill_after_ms=0)),
        ({"command": "x", "delay": "1h30m"}, JobSpec(command="x", delay_ms=5_400_000)),
        (
            {"command": "x", "run_at": "2030-11-07T10:00:00Z"},
            JobSpec(command="x", run_at=1_920_276_000_000),
        ),
        (
            {"command": "x", "scheduled_at": "now+1s"},
            JobSpec(command="x", run_at=NOW + 1000),
        ),
        (
            {"command": "x", "env": {"A": "", "B": "é"}},
            JobSpec(command="x", env={"A": "", "B": "é"}),
        ),
        ({"command": "x", "on_lost": "hold"}, JobSpec(command="x", on_lost="hold")),
    ],
)
def test_accepted(document: dict[str, Any], expected: JobSpec) -> None:
    """
    Kebab or snake case, aliases, names of priorities, numbers as strings, null for not given.
    """
    assert expected == spec(document)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], 'a job must be a JSON object such as {"command": "make"}; got []'),
        ("make", 'a job must be a JSON object such as {"command": "make"}; got \'make\''),
        ({}, 'a job needs a command, for example {"command": "make"}, or an argv'),
        ({"comand": "x"}, "unknown field 'comand' (did you mean command?)"),
        ({"zzz": 1}, "unknown field 'zzz'"),
        ({"command": ""}, "command: must not be empty; got ''"),
        ({"command": " \n"}, "command: must not be empty; got ' \\n'"),
        ({"command": 5}, "command: must be a string; got 5"),
        ({"command": True}, "command: must be a string; got true"),
        ({"command": "a\0b"}, "command: must not hold a NUL character; got 'a\\x00b'"),
        ({"command": "x", "argv": ["x"]}, "command and argv: give one of them"),
        ({"argv": "make"}, 'argv: must be a list of strings such as ["make", "-j2"]; got \'make\''),
        ({"argv": []}, 'argv: must be a list of strings such as ["make", "-j2"]; got []'),
        ({"argv": ["make", 2]}, "argv: must be a string; got ['make', 2]"),
        ({"argv": [""]}, "argv: must not be empty; got ['']"),
        ({"command": "x", "id": 5}, "id: must be a string; got 5"),
        (
            {"command": "x", "priority": "urgent"},
            "priority: must be a whole number, or high, medium or low; got 'urgent'",
        ),
        (
            {"command": "x", "priority": True},
            "priority: must be a whole number, or high, medium or low; got true",
        ),
        (
            {"command": "x", "priority": 1 << 63},
            "priority: must be a whole number, or high, medium or low; got 9223372036854775808",
        ),
        ({"command": "x", "delay": 1e308}, "delay: must be at most ten years; got 1e+308"),
        (
            {"command": "x", "max_retries": -1},
            "max_retries: must be a whole number of 0 or more; got -1",
        ),
        (
            {"command": "x", "max_retries": 1.5},
            "max_retries: must be a whole number of 0 or more; got 1.5",
        ),
        (
            {"command": "x", "max-tries": "0"},
            "max-tries: must be a whole number of 1 or more; got '0'",
        ),
        (
            {"command": "x", "max_tries": 3, "max_retries": 2},
            "max_retries: says the same as another field; give one of them",
        ),
        (
            {"command": "x", "timeout": "soon"},
            "timeout: must be a duration such as 90, 90s, 15m, 1h30m or 1d; got 'soon'",
        ),
        (
            {"command": "x", "timeout": 0},
            "timeout: must be longer than 0; leave it out for none; got 0",
        ),
        ({"command": "x", "delay": "600w"}, "delay: must be at most ten years; got '600w'"),
        ({"command": "x", "run_at": "now", "delay": 5}, "run_at and delay: give one of them"),
        ({"command": "x", "env": ["A=1"]}, "env: must be an object of strings"),
        ({"command": "x", "env": {"A": 1}}, "env: A must be a string"),
        ({"command": "x", "env": {"A=": "1"}}, "env: 'A=' cannot be the name of a variable"),
        ({"command": "x", "on_lost": "run"}, "on_lost: must be retry, dead or hold; got 'run'"),
        ({"command": "x", "hold": "yes"}, "hold: must be true or false; got 'yes'"),
    ],
)
def test_refused(document: object, expected: str) -> None:
    """
    The field as it was written, the rule, what came instead.
    """
    assert refusal(document).startswith(expected)


def test_long_input_is_not_echoed_whole() -> None:
    """
    One line stays one line on a screen.
    """
    assert len(refusal({"command": "x", "timeout": "y" * 10_000})) < 200


def test_options_beat_fields() -> None:
    """
    What is typed for this once wins over what the file says; of alternatives, all of them give way.
    """
    document = {
        "command": "x",
        "max_tries": 9,
        "delay": "1h",
        "priority": 5,
        "env": {"A": "1", "B": "1"},
    }
    options = {"max-retries": "2", "run-at": "now", "priority": "low", "env": {"B": "2"}}

    assert spec(document, options) == JobSpec(
        command="x", max_retries=2, run_at=NOW, priority=-10, env={"A": "1", "B": "2"}
    )
    assert spec(document, {"command": "y"}).command == "y"
    assert spec({"argv": ["x"]}, {"command": "y"}) == JobSpec(command="y")


def test_options_are_named_as_they_were_typed() -> None:
    """
    The same rule, the option's name.
    """
    expected = "--timeout: must be a duration such as 90, 90s, 15m, 1h30m or 1d; got '5x'"

    assert expected == refusal({"command": "x"}, {"timeout": "5x"})


def test_a_relative_directory_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The daemon has a directory of its own, so a relative one is completed here.
    """
    monkeypatch.chdir("/usr")
    monkeypatch.delenv("PWD", raising=False)

    assert spec({"command": "x"}, {"cwd": "lib/../share"}).cwd == "/usr/share"
    # The home of whoever the job runs as: only where it runs is it known which directory that is.
    assert spec({"command": "x"}, {"cwd": "~"}).cwd == "~"
    assert spec({"command": "x", "cwd": "~/src"}, {}).cwd == "~/src"
    assert spec({"command": "x"}, {"cwd": "~alice"}).cwd == "/usr/~alice"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"command": "x"', "not valid JSON: expecting ',' delimiter at line 1 column 16"),
        ('{"command": x}', "not valid JSON: expecting value at line 1 column 13"),
        ('{\n"a": 1,\n}', "at line 3 column 1"),
        ("{'command': 'x'}", "at line 1 column 2"),
        ('{"a": NaN}', "not valid JSON: "),
        (b'{"a": "\xff"}', "not valid JSON: text that is not UTF-8"),
        ('{"a": "\udcff"}', "not valid JSON: text that is not UTF-8"),
        ("[" * 100_000, "not valid JSON: nested too deep"),
    ],
)
def test_bad_json_says_where(text: str | bytes, expected: str) -> None:
    """
    Line and column of the fault.
    """
    with pytest.raises(UsageError) as caught:
        decode_json(text)
    assert expected in str(caught.value)
