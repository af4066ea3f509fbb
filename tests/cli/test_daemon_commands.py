"""
The commands about the daemon and its parts: status, worker, queue, config, daemon, version, help.
"""

import os
import stat
import subprocess

import pytest
from conftest import Shell
from daemon_process import alive, processes_of, wait_until

from queuectl import __version__
from queuectl.commands.guide import all_commands
from queuectl.protocol import Config, GetConfig
from queuectl.views import SettingView


def test_status(fresh: Shell) -> None:
    """
    Everything in one document, on one page, and without any words.
    """
    running = fresh.ok("enqueue", "sleep 1000")
    fresh.daemon.pid_of(running)
    status = fresh("status", "--json").json

    assert status["daemon"]["pid"] == fresh.daemon.pid
    assert status["daemon"]["version"] == __version__
    assert status["daemon"]["uptime"] >= 0
    assert status["runner"]["pid"] == fresh.daemon.runner_pid
    assert status["jobs"]["processing"] == 1
    assert status["dlq"] == 0
    (busy,) = [each for each in status["workers"] if each["job"] == running]
    assert busy["state"] == "busy"
    assert alive(busy["pid"])
    assert status["journal"]["durability"] == "always"
    page = fresh.ok()
    for expected in (f"pid {fresh.daemon.pid}", "1 processing", "1 active", "0 dead", "sleep 1000"):
        assert expected in page
    assert fresh.ok("status", "-q") == running


def test_workers_come_and_go(fresh: Shell) -> None:
    """
    start adds, stop drains: running jobs finish first, with --now they are cancelled.
    """
    before = len(fresh("worker", "list", "--json").json)
    assert "started 3 workers" in fresh.ok("worker", "start", "--count", "3")
    assert len(fresh("workers", "list", "--json").json) == before + 3
    job = fresh.ok("enqueue", "sleep 1000")
    fresh.daemon.wait_for(job, "processing")
    assert "1 worker still busy" in fresh.ok("worker", "stop")
    (left,) = fresh("worker", "list", "--json").json
    assert (left["state"], left["job"]) == ("draining", job)
    fresh.ok("worker", "stop", "--now")
    fresh.daemon.wait_for(job, "cancelled")
    wait_until(lambda: fresh("worker", "list", "--json").json == [])
    assert fresh("worker", "list").err == "queuectl: no workers: queuectl worker start\n"
    assert fresh("worker", "start", "--count", "0").code == 2
    assert fresh("worker", "start", "--count", "x").code == 2


def test_named_queues(fresh: Shell) -> None:
    """
    Made on first use, limited, paused, resumed, shown, deleted.
    """
    job = fresh.ok("enqueue", "--queue", "heavy", "--hold", "true")
    assert fresh.ok("queue", "list", "-q").split() == ["default", "heavy"]
    assert fresh("queue", "set", "heavy", "--concurrency", "1", "--json").json == {
        "name": "heavy",
        "concurrency": 1,
        "paused": False,
        "running": 0,
        "jobs": fresh("queue", "show", "heavy", "--json").json["jobs"],
    }
    assert "paused" in fresh.ok("queue", "pause", "heavy")
    assert fresh("status", "--json").json["queues"]["paused"] == ["heavy"]
    assert "active" in fresh.ok("queue", "resume", "heavy")
    assert fresh("queue", "set", "heavy", "--concurrency", "none", "--json").json[
        "concurrency"
    ] is None  # fmt: skip
    assert fresh("queue", "delete", "heavy").code == 4
    fresh.ok("cancel", job)
    assert fresh.ok("queue", "delete", "heavy") == "deleted heavy"
    assert fresh("queue", "show", "heavy").code == 3
    assert fresh("queue", "set", "heavy").code == 2


@pytest.mark.parametrize(
    ("key", "text", "shown", "document"),
    [
        ("max-retries", "5", "5", 5),
        ("max_retries", "0", "0", 0),
        ("base_backoff", "3", "3", 3),
        ("backoff_base", "1.5", "1.5", 1.5),
        ("backoff-max", "90", "1m30s", 90),
        ("job_timeout_sec", "2h", "2h", 7200),
        ("job_timeout", "none", "none", None),
        ("kill-after", "1500ms", "1.5s", 1.5),
        ("output_limit", "1G", "1G", 1 << 30),
        ("on_lost", "hold", "hold", "hold"),
        ("retention", "30d", "30d", 2_592_000),
    ],
)
def test_settings(shared: Shell, key: str, text: str, shown: str, document: object) -> None:
    """
    Written by any of their names, read back as people and programs want them.
    """
    name = shared.ok("config", "set", key, text).removesuffix(f" = {shown}")
    assert settings(shared)[name].source == "set"
    assert shared.ok("config", "get", key) == shown
    assert shared("config", "get", key, "--json").json == document
    shared.ok("config", "unset", key)
    assert settings(shared)[name].source == "default"
    assert settings(shared)[name].value == settings(shared)[name].default


def settings(shell: Shell) -> dict[str, SettingView]:
    with shell.daemon.client() as client:
        return {each.key: each for each in client.call(GetConfig(), Config).settings}


def test_settings_are_listed(shared: Shell) -> None:
    """
    `list` and `show` have every key, as a table and as an array.
    """
    shared.ok("config", "set", "kill-after", "1500ms")
    listed = shared("config", "list", "--json").json
    assert [each["key"] for each in listed] == list(settings(shared))
    assert {"key": "kill_after", "value": 1.5, "default": 10, "source": "set"} in listed
    assert shared.ok("config", "list", "-q").split() == list(settings(shared))
    assert shared.ok("config", "show") == shared.ok("config", "list") == shared.ok("config", "get")
    assert "1.5s" in shared.ok("config", "show")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("max-retrys", "1"), "unknown setting 'max-retrys' (did you mean max_retries?); see"),
        (("max_retries", "many"), "max_retries: must be a whole number; got 'many'"),
        (("max_retries", "-1"), "max_retries: must be between 0 and 1000; got '-1'"),
        (("max_retries", "none"), "max_retries: must be a whole number; got 'none'"),
        (("backoff_base", "nan"), "backoff_base: must be between 1 and 1000; got 'nan'"),
        (("job_timeout", "5x"), "job_timeout: must be a duration such as 90, 90s, 15m"),
        (("output_limit", "1K"), "output_limit: must be between 64K and 1P; got '1K'"),
        (("on_lost", "run"), "on_lost: must be one of retry, dead, hold; got 'run'"),
        (("max_retries",), "config set: needs KEY VALUE; see `queuectl help config set`"),
        (("max_retries", "1", "2"), "config set: does not take '2'; see"),
    ],
)
def test_settings_that_break_a_rule(shared: Shell, words: tuple[str, ...], expected: str) -> None:
    """
    Exit code 2 and a line with key, rule and what came instead; the setting stays.
    """
    before = settings(shared)
    outcome = shared("config", "set", *words)

    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith(f"queuectl: {expected}")
    assert before == settings(shared)


def test_settings_survive_a_restart(fresh: Shell) -> None:
    """
    They live in the journal.
    """
    fresh.ok("config", "set", "max-retries", "5")
    fresh.daemon.kill()
    fresh.daemon.start()
    assert fresh.ok("config", "get", "max-retries") == "5"


def test_the_first_command_starts_a_daemon(unstarted: Shell) -> None:
    """
    Nothing else is needed; its log and state are the user's alone, and it outlives the command.
    """
    assert unstarted.ok("enqueue", "true") == "1"
    assert unstarted("wait", "1").code == 0
    status = unstarted("daemon", "status", "--json").json
    assert alive(status["pid"])
    assert status["state_dir"] == unstarted.daemon.state_dir
    assert status["socket"] == unstarted.daemon.socket
    assert os.getsid(status["pid"]) == status["pid"] != os.getsid(0)
    assert os.readlink(f"/proc/{status['pid']}/cwd") == "/"
    assert stat.S_IMODE(os.stat(unstarted.daemon.state_dir).st_mode) == 0o700
    log = os.stat(f"{unstarted.daemon.state_dir}/queuectld.log")
    assert stat.S_IMODE(log.st_mode) == 0o600

    running = unstarted.ok("enqueue", "sleep 1000")
    unstarted.daemon.wait_for(running, "processing")
    assert unstarted.ok("daemon", "start") == f"queuectld is running already, pid {status['pid']}"
    assert unstarted.ok("daemon", "stop") == f"queuectld stopped, was pid {status['pid']}"
    assert not alive(status["pid"])
    assert not os.path.exists(unstarted.daemon.socket)
    assert any("sleep" in each for each in processes_of(unstarted.directory).values())
    assert unstarted("daemon", "status").code == 69
    assert unstarted("daemon", "stop").code == 69
    assert not os.path.exists(unstarted.daemon.socket)
    assert unstarted.ok("daemon", "start").startswith("queuectld started, pid ")
    assert unstarted.daemon.state(running) == "processing"


def test_commands_at_once_start_one_daemon(unstarted: Shell) -> None:
    """
    Who loses the race for the state directory uses the winner's daemon.
    """
    processes = [unstarted.popen("enqueue", "true") for _ in range(4)]
    outs = [process.communicate(timeout=60) for process in processes]

    assert [b"", b"", b"", b""] == [err for _, err in outs]
    assert sorted(int(out) for out, _ in outs) == [1, 2, 3, 4]


def test_no_daemon_where_none_may_be_started(unstarted: Shell) -> None:
    """
    69, one line, and nothing left behind.
    """
    outcome = unstarted("enqueue", "true", QUEUECTL_AUTOSTART="0")
    assert (69, "") == (outcome.code, outcome.out)
    assert "start one with `queuectl daemon start`" in outcome.err
    outcome = unstarted("enqueue", "true", "--socket", f"{unstarted.directory}/other.sock")
    assert outcome.code == 69
    assert unstarted("version").out == f"queuectl {__version__}\n"
    assert not os.path.exists(unstarted.daemon.state_dir)


def test_a_daemon_that_cannot_start_says_why(unstarted: Shell) -> None:
    """
    The daemon's own reason reaches the terminal.
    """
    os.mkdir(unstarted.daemon.state_dir, 0o755)
    os.chmod(unstarted.daemon.state_dir, 0o755)
    outcome = unstarted("enqueue", "true")
    assert (77, "") == (outcome.code, outcome.out)
    assert "open to others (mode 755, needs 700)" in outcome.err


def test_version(shared: Shell) -> None:
    """
    Both ends.
    """
    pid = shared.daemon.pid
    assert shared.ok("version") == f"queuectl {__version__}\nqueuectld {__version__} (pid {pid})"
    assert shared.ok("--version") == shared.ok("version")
    assert shared("version", "--json").json == {
        "client": __version__,
        "protocol": 1,
        "daemon": __version__,
        "pid": pid,
    }


def test_help(unstarted: Shell) -> None:
    """
    Every command explains itself, offline, both ways; nothing but help is on stdout.
    """
    overview = unstarted.ok("help")
    assert overview == unstarted.ok("--help") == unstarted.ok("-h")
    for command in all_commands():
        assert f"  {command.name} " in overview
    text = unstarted.ok("enqueue", "--help")
    assert text == unstarted.ok("help", "enqueue")
    assert text.startswith("Usage: queuectl enqueue [OPTIONS] COMMAND")
    assert max(map(len, text.splitlines()[1:])) <= 80
    assert unstarted.ok("worker", "-h") == unstarted.ok("help", "worker")
    assert unstarted.ok("worker", "start", "-h").startswith("Usage: queuectl worker start")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lst",), "unknown command 'lst' (did you mean list?); see `queuectl help`"),
        (("help", "lst"), "unknown command 'lst' (did you mean list?); see `queuectl help`"),
        (("worker",), "worker what: one of start, stop, list; see `queuectl help worker`"),
        (("worker", "go"), "unknown command worker 'go': one of start, stop, list; see"),
        (("show",), "show: needs ID...; see `queuectl help show`"),
        (("--bogus", "list"), "unknown option --bogus"),
        (("list", "--color", "blue"), "--color: must be one of auto, always, never; got 'blue'"),
        (("version", "x"), "version: does not take 'x'; see `queuectl help version`"),
    ],
)
def test_usage_errors(unstarted: Shell, words: tuple[str, ...], expected: str) -> None:
    """
    Exit code 2, one line, no daemon started for it.
    """
    outcome = unstarted(*words)

    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith(f"queuectl: {expected}")
    assert outcome.err.count("\n") == 1
    assert not os.path.exists(unstarted.daemon.state_dir)


def test_global_options_stand_anywhere(shared: Shell) -> None:
    """
    Before the command or after it.
    """
    elsewhere = {"QUEUECTL_SOCKET": "/nonexistent/q.sock"}
    socket = shared.daemon.socket
    assert shared("--socket", socket, "--json", "queue", "list", **elsewhere).code == 0
    assert shared("queue", "list", "--json", "--socket", socket, **elsewhere).code == 0
    assert shared("queue", "list", **elsewhere).code == 69


def test_output_that_cannot_be_written(shared: Shell) -> None:
    """
    A full disk under stdout is an error, not a success.
    """
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            shared.command("status"), env=shared.environment, stdout=full, stderr=-1, check=False
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
