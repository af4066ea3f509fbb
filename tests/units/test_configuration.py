"""
Where values come from, which source wins, and what is refused with which words.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_process import PACKAGES, DaemonProcess

from queuectl.client import Client
from queuectl.protocol import Config, GetConfig, SetConfig
from queuectl.settings import SETTINGS
from queuectl.views import SettingView
from queuectld.configuration import OWN, Configuration, ConfigurationError, load
from queuectld.options import configuration, parser


def write(directory: Path, **files: str) -> str:
    """
    Write files, `conf_d_10_toml` as conf.d/10.toml, into *directory*.
    """
    for name, text in files.items():
        path = directory / name.replace("conf_d_", "conf.d/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(directory)


def faults(
    directory: str | None, environment: dict[str, str], *options: tuple[str, str, str]
) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        load(directory, environment, options)
    return raised.value.faults


def test_later_sources_win(tmp_path: Path) -> None:
    """
    File, conf.d by name, environment, options: the later wins, and each value knows its source.
    """
    directory = write(
        tmp_path,
        queuectld_toml="max_retries = 1\nworkers = 1\nretention = '1d'\nbackoff_base = 3\n",
        conf_d_20_toml="max_retries = 3\nworkers = 3\nretention = '3d'\n",
        conf_d_10_json='{"max_retries": 2, "backoff_base": 2.5}',
    )
    environment = {"QUEUECTL_WORKERS": "4", "QUEUECTL_RETENTION": "4d", "QUEUECTL_JOB_ID": "x"}
    found = load(directory, environment, [("--set", "retention", "5d")])
    expected = {
        "max_retries": (3, f"file {directory}/conf.d/20.toml"),
        "backoff_base": (2.5, f"file {directory}/conf.d/10.json"),
        "workers": (4, "environment QUEUECTL_WORKERS"),
        "retention": (5 * 86_400_000, "option --set"),
    }
    assert expected == {key: (found.values[key], found.sources[key]) for key in found.values}


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    """
    The same keys in either format give the same values: numbers, words, spans, sizes, none.
    """
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    toml = write(
        tmp_path / "a",
        queuectld_toml=(
            'state_dir = "/s"\ndurability = "interval"\nbackoff-max = 90\n'
            'output_limit = "none"\nkill_after = "1m30s"\njob_timeout_sec = 5\non_lost = "hold"\n'
        ),
    )
    text = """{"state_dir": "/s", "durability": "interval", "backoff_max": "90s",
        "output_limit": null, "kill_after": 90, "job_timeout": 5, "on_lost": "hold"}"""
    of_toml, of_json = load(toml, {}, []), load(write(tmp_path / "b", queuectld_json=text), {}, [])
    expected = {
        "state_dir": "/s",
        "durability": "interval",
        "backoff_max": 90_000,
        "output_limit": None,
        "kill_after": 90_000,
        "job_timeout": 5_000,
        "on_lost": "hold",
    }
    assert expected == of_toml.values
    assert expected == of_json.values


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\nmax_retrys = 1", "2: unknown key 'max_retrys' (did you mean max_retries?)"),
        ("\n\n'stat_dir' = '/x'", "3: unknown key 'stat_dir' (did you mean state_dir?)"),
        ("zzz = 1", "1: unknown key 'zzz'"),
        ("# max_retries\nmax_retries = -1", "2: max_retries: must be between 0 and 1000; got '-1'"),
        ("max_retries = 1.5", "1: max_retries: must be a whole number; got '1.5'"),
        ("max_retries = true", "1: max_retries: must be a string or a number, not a bool"),
        ("[max_retries]\na = 1", "1: max_retries: must be a string or a number, not a table"),
        ("kill_after = '1x'", "1: kill_after: must be a duration"),
        ("on_lost = 'retri'", "1: on_lost: must be one of retry, dead, hold"),
        ("durability = 'interva'", "(did you mean interval?)"),
        ("log_level = 'loud'", "1: log_level: must be one of debug, info, warning, error"),
        ("socket = 'q.sock'", "1: socket: must be an absolute path; got 'q.sock'"),
        ("workers = 1\nworkers = 2\n", "(at line 2, column 12)"),
        ("kill_after = 1\nkill-after = 2", "2: kill-after: given already, as kill_after"),
        ("workers 1", "(at line 1, column"),
    ],
)
def test_a_fault_has_file_line_and_key(tmp_path: Path, text: str, fault: str) -> None:
    """
    Whatever is wrong is refused, where it is, with the nearest known key or the rule.
    """
    found = faults(write(tmp_path, queuectld_toml=text), {})
    assert 1 == len(found), found
    assert found[0].startswith(f"{tmp_path}/queuectld.toml")
    assert fault in found[0]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """
    One run finds the faults of all sources.
    """
    directory = write(
        tmp_path,
        queuectld_toml="workers = -1\nnonsense = 1\n",
        conf_d_1_json='{"workers": 1, "workers": 2}',
        conf_d_2_json="[1]",
        conf_d_3_json="{\n,}",
    )
    (tmp_path / "conf.d/4.toml").write_bytes(b"workers = \xff")
    os.symlink("/nowhere", tmp_path / "conf.d/5.toml")
    found = faults(
        directory, {"QUEUECTL_KILL_AFTER": "soon"}, ("--set", "retention", "x"), ("--set", "q", "1")
    )
    starts = ["queuectld.toml:1", "queuectld.toml:2", *(f"conf.d/{n}" for n in range(1, 6))]
    names = [f"{directory}/{each}" for each in starts]
    for name, fault in zip([*names, "QUEUECTL_KILL_AFTER", "--set", "--set"], found, strict=True):
        assert fault.startswith(name), (name, fault)


def test_two_main_files_are_refused(tmp_path: Path) -> None:
    """
    With both formats there nobody could tell which one counts.
    """
    directory = write(tmp_path, queuectld_toml="", queuectld_json="{}")
    assert "keep one" in faults(directory, {})[0]


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    """
    --check-config prints TOML that means the same.
    """
    given = {"workers": "3", "retention": "90m", "output_limit": "none", "state_dir": '/a b"c'}
    found = load(None, {}, [("--set", key, value) for key, value in given.items()])
    again = load(write(tmp_path, queuectld_toml="\n".join(found.lines())), {}, [])
    assert found.values == again.values


def test_options_are_keys(tmp_path: Path) -> None:
    """
    Options with names of their own beat --set, and paths of both are made absolute.
    """
    words = "--set durability=off --durability interval --socket q --config-dir"
    options = parser().parse_args([*words.split(), str(tmp_path)])
    found = configuration(options, {"QUEUECTL_STATE_DIR": "s"})
    assert "interval" == found.choice("durability")
    assert [os.path.abspath("q"), os.path.abspath("s")] == [
        found.path("socket"),
        found.path("state_dir"),
    ]
    assert ["durability", "socket", "state_dir"] == found.changed_from(Configuration())


def test_keys_do_not_clash() -> None:
    """
    A key means one thing.
    """
    assert not SETTINGS.keys() & OWN.keys()


def settings(daemon: DaemonProcess) -> dict[str, SettingView]:
    with Client(daemon.socket) as client:
        return {each.key: each for each in client.call(GetConfig(), Config).settings}


def change(daemon: DaemonProcess, request: SetConfig) -> None:
    with Client(daemon.socket) as client:
        client.call(request, Config)


def test_what_was_set_wins_over_files(daemons: Callable[..., DaemonProcess]) -> None:
    """
    `config set` beats every file, survives a restart, and unset gives way to the file again, which
    no program changed.
    """
    daemon = daemons()
    home = Path(daemon.directory) / ".config/queuectl"
    home.mkdir(parents=True)
    text = "max_retries = 4\nworkers = 3\n"
    write(home, queuectld_toml=text)
    daemon.start()
    source = f"file {home}/queuectld.toml"
    found = settings(daemon)
    assert (4, 3, source) == (
        found["max_retries"].value,
        found["max_retries"].default,
        found["max_retries"].source,
    )
    assert (3, source) == (found["workers"].value, found["workers"].source)
    assert 3 == len(daemon.status().workers)
    change(daemon, SetConfig(key="max_retries", value=9))
    daemon.restart()
    assert (9, "set") == (
        settings(daemon)["max_retries"].value,
        settings(daemon)["max_retries"].source,
    )
    change(daemon, SetConfig(key="max_retries", unset=True))
    assert (4, source) == (
        settings(daemon)["max_retries"].value,
        settings(daemon)["max_retries"].source,
    )
    assert text == (home / "queuectld.toml").read_text()


def test_a_removed_value_is_gone_after_a_restart(daemons: Callable[..., DaemonProcess]) -> None:
    """
    What a file gave is not durable: without the file the default holds, slots included.
    """
    daemon = daemons()
    home = Path(daemon.directory) / ".config/queuectl"
    home.mkdir(parents=True)
    write(home, queuectld_toml="max_retries = 4\nworkers = 7\n")
    daemon.start()
    assert 7 == len(daemon.status().workers)
    (home / "queuectld.toml").unlink()
    daemon.restart()
    assert (3, "default") == (
        settings(daemon)["max_retries"].value,
        settings(daemon)["max_retries"].source,
    )
    assert len(os.sched_getaffinity(0)) == len(daemon.status().workers)


def test_a_fault_stops_the_start(daemons: Callable[..., DaemonProcess]) -> None:
    """
    The daemon does not run on half of a configuration.
    """
    daemon = daemons(environment={"QUEUECTL_WORKERS": "many"})
    said = daemon.launch()
    assert said == "error: QUEUECTL_WORKERS: workers: must be a whole number, or none; got 'many'"
    assert 78 == daemon.wait()
    assert not os.path.exists(daemon.state_dir)


def test_check_config(tmp_path: Path) -> None:
    """
    --check-config says what holds and from where, or each fault on a line, and starts nothing.
    """

    def check(text: str) -> subprocess.CompletedProcess[str]:
        directory = write(tmp_path, queuectld_toml=text)
        return subprocess.run(
            [sys.executable, "-P", "-m", "queuectld", "--check-config", "--config-dir", directory],
            env={"PYTHONPATH": PACKAGES},
            capture_output=True,
            text=True,
            check=False,
        )

    good, bad = check("workers = 2\n"), check("workers = 'x'\nworker = 1\n")
    line = f"workers = 2  # file {tmp_path}/queuectld.toml\n"
    assert (0, line, "") == (good.returncode, good.stdout, good.stderr)
    assert (78, "") == (bad.returncode, bad.stdout)
    assert 2 == len(bad.stderr.splitlines()), bad.stderr
