"""
A machine with people on it: what each of them is told of the queue, many things at a time.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from debian_box import Box

PERSON = Path(__file__).with_name("person_in_box.py")
#: Where it is inside.
INSIDE = "/usr/local/lib/person.py"
#: How a job of alice's gets into a state. What is secret has "hidden" in it, output has "shown".
SPECS: dict[str, dict[str, Any]] = {
    "held": {"hold": True},
    "scheduled": {"delay_ms": 3_600_000},
    "dead": {"command": "echo shown; : hidden; exit 3", "max_retries": 0},
    "completed": {},
}


class Said(NamedTuple):
    """
    What a command ended with.
    """

    code: int
    out: str
    err: str


class Machine:
    """
    A booted box and its people, each of whom may do many things at a time.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        box.push(PERSON, INSIDE)
        box.run("mkdir", "-p", "/home/alice/hidden", user="alice")

    def _do(self, person: str, **asked: Any) -> Any:
        user = None if person == "root" else person
        command = ("python3", "-IS", INSIDE)
        done = self.box.run(*command, user=user, stdin=json.dumps(asked))
        return json.loads(done.stdout)

    def type(self, person: str, commands: list[list[str]]) -> list[Said]:
        """
        Type commands as somebody.
        """
        return [Said(*each) for each in self._do(person, commands=commands)["commands"]]

    def ask(
        self, person: str, *requests: dict[str, Any], token: str | None = None
    ) -> list[list[dict[str, Any]]]:
        """
        Make requests by hand, as somebody or whom a token stands for; return the answers to each,
        or the one refusal of the token.
        """
        asked = {"requests": requests, "token": token}
        answers: list[list[dict[str, Any]]] = self._do(person, **asked)["requests"]
        return answers

    def token_of(self, person: str) -> str:
        """
        Have somebody make a token; return its text.
        """
        ((made,),) = self.ask(person, {"op": "token_create", "scopes": ["read"]})
        return str(made["text"])

    def jobs_of_alice(self) -> dict[str, Any]:
        """
        Return all that alice sees of her jobs, by id.
        """
        ((listed,),) = self.ask("alice", {"op": "list", "limit": 1000})
        return {job["id"]: job for job in listed["jobs"]}

    def make_jobs(self, person: str, states: dict[str, str]) -> dict[str, dict[str, Any]]:
        """
        Have alice make the jobs that *person* will try something with: for each name one in the
        state given. Return them by name, as she sees them.
        """
        # An admin before may have stopped all workers: that is what rows of the table do.
        self.ask("root", {"op": "config_set", "key": "workers", "value": 4})
        common = {"command": "echo shown; : hidden", "env": {"TOKEN": "hidden"}}
        specs = [
            {**common, **SPECS[state], "id": f"{person}-{name.replace(' ', '')}"}
            for name, state in states.items()
        ]
        finish = [spec["id"] for spec in specs if not {"hold", "delay_ms"} & spec.keys()]
        enqueue = {"op": "enqueue", "jobs": specs, "cwd": "/home/alice/hidden", "want_jobs": True}
        (made,), _ = self.ask("alice", enqueue, {"op": "wait", "ids": finish})
        return dict(zip(states, made["jobs"], strict=True))
