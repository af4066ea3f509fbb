"""
What the tests do to a queue inside a box, and what they look at.
"""

import json
from typing import Any

from debian_box import Box, wait_until
from installation import write

WAIT_S = 30.0
DAEMON, RUNNER, SOCKET = "queuectld.service", "queuectl-runner.service", "queuectld.socket"
#: Runs until its file is there, and exits with 7; or until it is told to end, and exits with 9.
PATIENT = (
    "trap 'echo told; exit 9' TERM; echo up; "
    "while ! [ -e /var/tmp/go-$QUEUECTL_JOB_ID ]; do sleep 0.1; done; exit 7"
)


class QueueInBox:
    """
    The machine's queue in a box that is up, used as alice; or, with *own*, her own queue.
    """

    def __init__(self, box: Box, *, user: str = "alice", own: bool = False) -> None:
        self.box = box
        self.user = user
        self.own = own

    def systemctl(self, *words: str, check: bool = True) -> str:
        """
        Run systemctl on the manager of this queue; return what it wrote.
        """
        if not self.own:
            return self.box.run("systemctl", *words, check=check).stdout.strip()
        return self._as_user("systemctl", "--user", *words, check=check).strip()

    def kill(self, unit: str, *options: str) -> None:
        """
        Have systemd signal a unit's processes. It may complain of one that is gone by then.
        """
        self.systemctl("kill", *options, unit, check=False)

    def queuectl(self, *words: str, check: bool = True) -> str:
        """
        Run queuectl as the user; return what it wrote.
        """
        return self._as_user("queuectl", *words, check=check).strip()

    def _as_user(self, *argv: str, check: bool) -> str:
        command = list(argv)
        if self.own:
            uid = self.box.shell(f"id -u {self.user}")
            command = ["env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *command]
        return self.box.run(*command, user=self.user, check=check).stdout

    def enqueue(self, job_id: str, command: str, *options: str) -> None:
        """
        Make a job.
        """
        self.queuectl("enqueue", "--id", job_id, *options, command)

    def show(self, job_id: str) -> dict[str, Any]:
        """
        Return all about a job.
        """
        found: dict[str, Any] = json.loads(self.queuectl("show", job_id, "--json"))
        return found

    def state(self, job_id: str) -> str:
        """
        Return a job's state.
        """
        return str(self.show(job_id)["state"])

    def wait_for_state(self, job_id: str, *states: str) -> None:
        """
        Wait until a job is in one of *states*.
        """
        wait_until(lambda: self.state(job_id) in states, WAIT_S, f"{job_id} is {states}")

    def wait_for_output(self, job_id: str, text: str) -> None:
        """
        Wait until a job has written *text*.
        """

        def written() -> bool:
            return text in self.queuectl("logs", job_id, check=False)

        wait_until(written, WAIT_S, f"{job_id} wrote {text}")

    def start_patient(self, job_id: str) -> None:
        """
        Make a job that waits, with no retries, and wait until it runs.
        """
        self.enqueue(job_id, PATIENT, "--max-retries", "0")
        self.wait_for_output(job_id, "up")

    def pid_of(self, job_id: str) -> int:
        """
        Return the pid of a running job once it is told.
        """
        wait_until(lambda: self.show(job_id)["pid"], WAIT_S, f"the pid of {job_id}")
        return int(self.show(job_id)["pid"])

    def let_go(self, job_id: str) -> None:
        """
        Let a patient job end, with exit code 7.
        """
        write(self.box, f"/var/tmp/go-{job_id}", "")

    def main_pid(self, unit: str) -> int:
        """
        Return the pid, inside, of a unit's main process.
        """
        return int(self.systemctl("show", "--value", "--property=MainPID", unit))

    def wait_for_other_main_pid(self, unit: str, before: int) -> None:
        """
        Wait until a unit runs in another process.
        """

        def other() -> bool:
            # In this order: "active" of the process before says nothing of the new one.
            if self.main_pid(unit) in (0, before):
                return False
            return self.systemctl("is-active", unit, check=False) == "active"

        wait_until(other, WAIT_S, f"{unit} runs again")

    def end_of(self, job_id: str) -> tuple[object, ...]:
        """
        Return how the only attempt of a job ended: end, exit code, signal.
        """
        self.wait_for_state(job_id, "completed", "dead", "failed", "pending", "held")
        runs = self.show(job_id)["runs"]
        assert len(runs) == 1, runs
        return tuple(runs[0][name] for name in ("end", "exit_code", "signal"))

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """
        Return entries of the journal.
        """
        said = self.box.run("journalctl", "--output=json", "--no-pager", *matches).stdout
        return [json.loads(line) for line in said.splitlines()]
