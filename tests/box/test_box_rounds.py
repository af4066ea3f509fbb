"""
The disruptive steps again and again, under load: what an administrator, an upgrade or a crash does
to the units while jobs start and end all the time. Each job ends with its own exit code, once.
"""

import json
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from box_steps import kernel_tells_afterwards, kill_daemon, kill_runner, reload_runner
from debian_box import Box, wait_until
from installation import LIBRARY, write
from queue_in_box import DAEMON, RUNNER, WAIT_S, QueueInBox

#: How often each step is taken, on each of the two systems.
ROUNDS = int(os.environ.get("QUEUECTL_BOX_ROUNDS", "10"))
#: Patient jobs that run at once.
PATIENT_COUNT = 3
LOAD_COUNT = 300
FOLDER = "/var/tmp/rounds"
#: Tells that it runs; ends with its own exit code when it is let go, with 9 when it is told to.
PATIENT = (
    "trap 'exit 9' TERM; : >{folder}/up-{name}; "
    "while ! [ -e {folder}/go-{name} ]; do sleep 0.1; done; exit {code}"
)
TOLD = 9
LOST = ("lost", None)


def restart_daemon(queue: QueueInBox) -> None:
    queue.systemctl("restart", DAEMON)


def upgrade(queue: QueueInBox) -> None:
    """
    What the packages' scripts do once another version's files are there.
    """
    number = next(VERSIONS)
    version = f"99.0.{number}"
    module = queue.box.path(f"{LIBRARY}/queuectl/__init__.py")
    text = re.sub(r"(?m)^__version__ = .*$", f'__version__ = "{version}"', module.read_text())
    write(queue.box, f"{LIBRARY}/queuectl/__init__.py", text)
    # What Python compiled of it is known to be old by another second, or another size.
    os.utime(module, (number, number))
    reload_runner(queue)
    queue.systemctl("restart", DAEMON)

    def versions() -> list[str | None]:
        status = json.loads(queue.queuectl("status", "--json"))
        return [status[each] and status[each]["version"] for each in ("daemon", "runner")]

    wait_until(lambda: versions() == [version, version], WAIT_S, f"both are {version}")


def restart_runner(queue: QueueInBox) -> None:
    queue.systemctl("restart", RUNNER)


def stop_and_start_runner(queue: QueueInBox) -> None:
    queue.systemctl("stop", RUNNER)
    queue.systemctl("start", RUNNER)


VERSIONS = count(1)
#: Steps that no job notices; one that hides the ends of the youngest; and those that end all jobs.
KEEPING = (restart_daemon, kill_daemon, reload_runner, upgrade)
LOSING = (kill_runner,)
ENDING = (restart_runner, stop_and_start_runner)


@pytest.fixture(scope="module")
def queue(make_box: Callable[[str], Box]) -> QueueInBox:
    """
    The machine's queue on a booted machine, whose daemon is started again soon.
    """
    box = make_box("rounds")
    drop_in = "/etc/systemd/system/queuectld.service.d/soon.conf"
    write(box, drop_in, "[Service]\nRestartSec=100ms\n")
    write(box, "/etc/queuectl/queuectld.toml", f"workers = {PATIENT_COUNT + 2}\n")
    folder = box.path(FOLDER)
    folder.mkdir()
    folder.chmod(0o1777)
    box.boot()
    box.run("queuectl", "queue", "set", "patient", "--concurrency", str(PATIENT_COUNT))
    return QueueInBox(box)


class Load:
    """
    Patient jobs, of which some always run, and many short ones beside them, each with an exit code
    of its own.
    """

    def __init__(self, queue: QueueInBox, row: str, patient_count: int) -> None:
        self.queue = queue
        self.folder: Path = queue.box.path(FOLDER)
        self.patients = {f"{row}-p{n}": 100 + n % 100 for n in range(patient_count)}
        self.short = {f"{row}-s{n}": n % 100 for n in range(LOAD_COUNT)}
        jobs = [
            {
                "id": name,
                "queue": "patient",
                "command": PATIENT.format(folder=FOLDER, name=name, code=code),
            }
            for name, code in self.patients.items()
        ]
        jobs += [
            {"id": name, "priority": -1, "command": f"sleep 0.0{code}; exit {code}"}
            for name, code in self.short.items()
        ]
        lines = "\n".join(json.dumps({**job, "max_retries": 0}) for job in jobs)
        queue.box.run("queuectl", "enqueue", "-f", "-", user=queue.user, stdin=lines)

    def wait_for_patient(self, name: str) -> None:
        """
        Wait until a patient job runs.
        """
        wait_until((self.folder / f"up-{name}").exists, WAIT_S, f"{name} runs")

    def running(self) -> set[str]:
        """
        The patient jobs that have begun, ended ones too.
        """
        return {name for name in self.patients if (self.folder / f"up-{name}").exists()}

    def let_go(self, name: str) -> None:
        """
        Let a patient job end.
        """
        (self.folder / f"go-{name}").touch()

    def ends(self) -> dict[str, tuple[str, int | None]]:
        """
        Wait for the end of all; how the only attempt of each ended, and its exit code. Attempts
        that a runner refused because it was ending did not begin.
        """
        names = [*self.patients, *self.short]
        self.queue.box.run(
            "queuectl", "wait", "--timeout", "60s", *names, user=self.queue.user, check=False
        )
        said = self.queue.queuectl("show", "--json", *names)
        found = json.loads(said)
        assert names == [job["id"] for job in found]
        begun = {
            job["id"]: [run for run in job["runs"] if run["end"] != "could_not_start"]
            for job in found
        }
        assert {1} == {len(runs) for runs in begun.values()}
        return {name: (runs[0]["end"], runs[0]["exit_code"]) for name, runs in begun.items()}


@pytest.mark.parametrize("step", [*KEEPING, *LOSING], ids=lambda each: each.__name__)
def test_a_step_that_jobs_survive(queue: QueueInBox, step: Callable[[QueueInBox], None]) -> None:
    """
    Every job ends with its own exit code. Where the runner is killed, that takes a kernel that
    tells it afterwards, and a job that is not being made just then, nor so young that its pidfd was
    not in store: of those, some are lost, and none is told wrongly.
    """
    load = Load(queue, step.__name__, ROUNDS)
    names = list(load.patients)
    for number, name in enumerate(names):
        # A kill of the runner may lose a job that is being made: let no patient one be.
        needed = names[number : number + PATIENT_COUNT] if step in LOSING else [name]
        for each in needed:
            load.wait_for_patient(each)
        step(queue)
        load.let_go(name)
    ends = load.ends()
    true = {name: ("exited", code) for name, code in (load.patients | load.short).items()}
    strange = {name: end for name, end in ends.items() if end != true[name]}
    if step in LOSING:
        unseen = load.short if kernel_tells_afterwards() else true
        strange = {
            name: end for name, end in strange.items() if (name in unseen, end) != (True, LOST)
        }
    assert {} == strange


@pytest.mark.parametrize("step", ENDING, ids=lambda each: each.__name__)
def test_a_step_that_ends_jobs(queue: QueueInBox, step: Callable[[QueueInBox], None]) -> None:
    """
    Jobs are told to end, and how they ended is known of each.
    """
    load = Load(queue, step.__name__, (ROUNDS + 1) * PATIENT_COUNT)
    told: set[str] = set()
    for _ in range(ROUNDS):
        wait_until(lambda: len(load.running() - told) >= PATIENT_COUNT, WAIT_S, "patient jobs run")
        running = load.running()
        step(queue)
        told.update(running)
    for name in load.patients:
        load.let_go(name)
    ends = load.ends()
    assert dict.fromkeys(told, ("exited", TOLD)) == {name: ends[name] for name in told}
    for name, code in (load.patients | load.short).items():
        assert ends[name] in (("exited", code), ("exited", TOLD), ("signalled", None)), name
