"""
Who may do what, the whole of it: each row of the table in docs/security.md by the installed
program, and each request of the protocol by hand, as everybody.

alice owns the jobs, bob is another member, dave an admin, grace no member; and root. What is secret
(command, arguments, variables, script, directory) has "hidden" in it, output has "shown".
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
from debian_box import Box, wait_until
from installation import write
from markdown_reader import Document, code_in
from people_in_box import Machine
from queue_in_box import RUNNER, WAIT_S
from requests_by_hand import by_hand

from queuectl import messages

ADMINS = ("dave", "root")
DONE, NOTHING, NOT_FOUND, DENIED = 0, 1, 3, 77
#: An id that no job has or ever had, and a number.
NEVER = ("never-was", "987654321")

TABLE = Document("docs/security.md").table("Commands")

# --- the table's words --------------------------------------------------------------------------


class Rule(NamedTuple):
    """
    What a cell means: exit codes for who has the job, and for who has not. None: any but success.
    """

    own: int | None = DONE
    other: int | None = DONE


OWN = Rule(DONE, NOT_FOUND)
REFUSED = Rule(DENIED, DENIED)
FOR_ALL = Rule()
CLOSED = Rule(None, None)
#: By the first words of a cell. What a row says beyond them is for people.
MEMBERS = {
    "own": OWN,
    "all of one's own": FOR_ALL,
    "refused by the file's mode": CLOSED,
    "refused": REFUSED,
    "counts of all jobs": FOR_ALL,
    "all workers": FOR_ALL,
    "names, limits and counts": FOR_ALL,
    "as queue list": FOR_ALL,
    "all settings": FOR_ALL,
    "says that it runs": FOR_ALL,
    "what this account may see": FOR_ALL,
    "asks nobody": FOR_ALL,
    "its own": FOR_ALL,
    "yes": FOR_ALL,
    "serves": FOR_ALL,
}
#: What of that asks nobody, so that who is no member may do it too.
ASKS_NOBODY = ("asks nobody", "its own")

#: A job of alice's in the state that the command works on.
READY = {
    "release": "held",
    "hold": "scheduled",
    "cancel": "scheduled",
    "retry": "dead",
    "dlq show": "dead",
    "dlq retry": "dead",
    "dlq purge": "dead",
    "edit": "scheduled",
}
#: What is typed, where it is more than the row says. {job} is alice's job, {token} the id of one of
#: her tokens, {me} who asks.
TYPED = {
    "enqueue": "enqueue --hold true",
    "enqueue --priority 1": "enqueue --hold --priority 1 true",
    "enqueue --user NAME": "enqueue --user heidi true",
    "enqueue --output journal": "enqueue --output journal true",
    "run": "run echo",
    "run --user NAME": "run --user heidi echo",
    "list": "list --json",
    "dlq list": "dlq list --json",
    "worker list": "worker list --json",
    "show": "show --json {job}",
    "prune": "prune {job}",
    "queue show": "queue show default",
    "queue set": "queue set of-{me} --concurrency 1",
    "queue pause": "queue pause of-{me}",
    "queue resume": "queue resume of-{me}",
    "queue delete": "queue delete of-{me}",
    "config get": "config get max_retries",
    "config set": "config set max_retries 3",
    "config unset": "config unset max_retries",
    "completion": "completion bash",
    "journal verify": "journal verify /var/lib/queuectl",
    "journal repair": "journal repair --truncate /var/lib/queuectl",
    "help": "help enqueue",
    "edit": "edit --priority -1 {job}",
    "web token create --user NAME": "web token create --user heidi",
    "web token revoke": "web token revoke {token}",
}
#: What ends only when it is told to: tests/web.
SERVES = {"web"}
#: Commands that name a job.
ABOUT_A_JOB = (
    *("logs", "logs --follow", "logs show", "wait", "cancel", "retry", "hold", "release"),
    *("dlq show", "dlq retry", "dlq purge"),
)
#: Where an owner sees what others do not.
SHOW_SECRETS = {"list", "show", "dlq list", "dlq show"}
SHOW_OUTPUT = {"logs", "logs --follow", "logs show"}
#: The doctor's exit code says whether something is wrong. root may find it wrong that a journal is
#: in use.
MAY_FIND_FAULTS = {"doctor", "journal verify", "journal repair"}


def plain(cell: str) -> str:
    return cell.replace("`", "")


def words_of(row: str, job: str, me: str, token: str = "") -> list[str]:
    """
    Return what is typed for a row of the table.
    """
    typed = TYPED.get(row, row + " {job}" * (row in ABOUT_A_JOB))
    return typed.format(job=job, me=me, token=token).split()


def names_a_job(row: str) -> bool:
    return "{job}" in TYPED.get(row, "") or row in ABOUT_A_JOB


def rule_of(cell: str) -> Rule:
    """
    Return what a cell for members means; the longest words that fit count.
    """
    fitting = [words for words in MEMBERS if plain(cell).startswith(words)]
    assert fitting, f"nobody knows what {cell!r} means"
    return MEMBERS[max(fitting, key=len)]


def expected(row: list[str], person: str) -> int | None:
    """
    Return the exit code that the table promises; None: any but success.
    """
    name, members, admins = code_in(row[0])[0], plain(row[1]), plain(row[2])
    if person in ADMINS and admins.startswith("root"):
        return DONE if (person, admins) == ("root", "root") else None
    if person in ADMINS:
        return DONE
    if person == "grace":
        if members.startswith(ASKS_NOBODY):
            return DONE
        return None if name in MAY_FIND_FAULTS else DENIED
    rule = rule_of(row[1])
    others = person != "alice" and (names_a_job(name) or "{token}" in TYPED.get(name, ""))
    return rule.other if others or rule is REFUSED else rule.own


def jobs_for(machine: Machine, person: str) -> dict[str, dict[str, Any]]:
    """
    Return a job of alice's for each row that is about one, for *person* to try it with.
    """
    names = [name for name in map(row_name, TABLE) if names_a_job(name)]
    return machine.make_jobs(person, {name: READY.get(name, "completed") for name in names})


def row_name(row: list[str]) -> str:
    return code_in(row[0])[0]


@pytest.fixture(scope="module")
def machine(box: Box) -> Iterator[Machine]:
    """
    The box, where root may have jobs too for a while, so that it is an admin like the other.
    """
    path = "/etc/queuectl/runner.toml"
    policy = box.path(path).read_text()
    write(box, path, policy + "\nallow_root = true\n")
    box.run("systemctl", "reload", RUNNER)
    yield Machine(box)
    write(box, path, policy)
    box.run("systemctl", "reload", RUNNER)


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("person", ["bob", "grace", "alice", "dave", "root"])
def test_the_table(machine: Machine, person: str) -> None:
    """
    Every row ends with the exit code that it promises, for the owner, another member, an admin,
    root and who is no member; who is refused changes nothing; nobody but the owner sees what runs.
    """
    jobs = jobs_for(machine, person)
    before = machine.jobs_of_alice()
    key = "id" if person == "alice" else "number"
    typed = []
    # Last what reaches all jobs, those for the other rows too.
    rows = [row for row in TABLE if row_name(row) not in SERVES]
    rows.sort(key=lambda row: row_name(row) == "cancel --all")
    token_id = machine.token_of("alice").split("_")[1]
    for row in rows:
        name = row_name(row)
        job = str(jobs[name][key]) if name in jobs else ""
        typed.append(words_of(name, job, person, token_id))
    for row, words, said in zip(rows, typed, machine.type(person, typed), strict=True):
        name, promised = row_name(row), expected(row, person)
        where = (person, words, said)
        if name in MAY_FIND_FAULTS and promised == DONE:
            assert said.code in (DONE, NOTHING, 4, 75), where
        elif promised is None:
            assert said.code != DONE, where
        else:
            assert promised == said.code, where
        assert "Traceback" not in said.err, where
        text = said.out + said.err
        sees = person == "alice" and promised == DONE
        assert ("hidden" in text) == (sees and name in SHOW_SECRETS), where
        may_read = name in SHOW_OUTPUT and promised == DONE
        assert ("shown" in text.replace("echo shown", "")) == may_read, where
        if promised in (DENIED, NOT_FOUND):
            assert ("", 1) == (said.out, said.err.count("\n")), where
    if person in ("bob", "grace"):
        assert before == machine.jobs_of_alice()


def test_others_jobs_are_as_if_they_never_were(machine: Machine) -> None:
    """
    By number and by id, another member reads the same as about a job that never was.
    """
    jobs = jobs_for(machine, "twice")
    for key, never in (("id", NEVER[0]), ("number", NEVER[1])):
        typed = [
            words_of(name, text, "bob")
            for name, job in jobs.items()
            for text in (str(job[key]), never)
        ]
        answers = machine.type("bob", typed)
        for index in range(0, len(answers), 2):
            (code, out, err), as_if = answers[index], answers[index + 1]
            assert (NOT_FOUND, typed[index][-1] in err) == (code, True)
            assert as_if == (code, out, err.replace(typed[index][-1], never))


def test_an_admin_enqueues_for_somebody_else(machine: Machine) -> None:
    """
    The job has the other's ids and home and nothing of the admin's session; it is in the log who
    did it, and the other sees it.
    """
    told = "id -un; pwd; echo $HOME $USER $SHELL $PATH ${XDG_RUNTIME_DIR-none}"
    enqueue = {"op": "enqueue", "jobs": [{"command": told, "user": "heidi", "id": "gift"}]}
    session = {"PATH": "/root/bin:/bin", "HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"}
    (made,) = machine.ask("dave", {**enqueue, "env": session, "cwd": "/root"})[0]
    (number,) = made["ids"]
    said = machine.type("heidi", [["wait", "gift"], ["logs", "gift"], ["show", "--json", "gift"]])
    home = "/home/heidi"
    lines = ["heidi", home, f"{home} heidi /bin/sh /usr/local/bin:/usr/bin:/bin none"]
    assert lines == said[1].out.splitlines()
    shown = json.loads(said[2].out)
    assert ("heidi", "dave") == (shown["user"], shown["enqueued_by"])
    assert 0 == machine.type("dave", [["show", number]])[0].code
    matches = ["QUEUECTL_EVENT=job_enqueued_for", f"QUEUECTL_NUMBER={number}", "-o", "json"]

    def entry() -> list[str]:
        return machine.box.run("journalctl", *matches).stdout.splitlines()

    wait_until(lambda: len(entry()) == 1, WAIT_S, "it is told")
    found = json.loads(entry()[0])
    assert ("heidi", "dave") == (found["QUEUECTL_USER"], found["QUEUECTL_BY"])
    refused = machine.type("root", [["enqueue", "--user", "nobody-at-all", "true"]])[0]
    assert (2, 1) == (refused.code, refused.err.count("\n"))


def test_output_in_the_journal(machine: Machine) -> None:
    """
    `journalctl QUEUECTL_JOB=` tells the story with the output, by whom it is; the daemon's restart
    in the middle loses nothing and repeats nothing.
    """
    go = "/var/tmp/go-on"
    command = f"echo first; while ! [ -e {go} ]; do sleep 0.1; done; echo second; exit 3"
    options = ["--id", "spoken", "--output", "journal", "--max-retries", "0"]
    machine.type("alice", [["enqueue", *options, command]])

    def messages() -> list[str]:
        found = machine.box.run("journalctl", "-o", "json", "QUEUECTL_JOB=spoken").stdout
        entries = [json.loads(line) for line in found.splitlines()]
        assert {"alice"} == {entry["QUEUECTL_USER"] for entry in entries} or not entries
        return [
            entry["MESSAGE"] for entry in entries if entry["SYSLOG_IDENTIFIER"] == "queuectl-job"
        ]

    wait_until(lambda: messages() == ["first"], WAIT_S, "the first line is there")
    machine.box.run("systemctl", "restart", "queuectld.service")
    machine.box.run("touch", go)
    wait_until(lambda: len(messages()) == 2, WAIT_S, "the second line is there")
    assert ["first", "second"] == messages()
    assert "first\nsecond\n" == machine.type("alice", [["logs", "spoken"]])[0].out
    story = machine.box.run("journalctl", "-o", "cat", "QUEUECTL_JOB=spoken").stdout
    assert re.search(r"attempt 1 started.*first.*second.*exit code 3", story, re.DOTALL), story


def test_a_token_is_its_account_as_long_as_that_is_there(machine: Machine) -> None:
    """
    Whoever brings it, it shows its account's jobs, within the service's own confinement. It is
    refused when the account leaves the group, is deleted, or its uid is given to somebody else.
    """
    box, look = machine.box, {"op": "list", "limit": 1000}
    box.run("useradd", "-m", "-u", "4321", "-G", "queuectl", "judy")
    machine.ask("judy", {"op": "enqueue", "jobs": [{"command": "true"}]})
    token = machine.token_of("judy")

    def shown(person: str) -> list[str]:
        ((answer,),) = machine.ask(person, look, token=token)
        return [job["user"] for job in answer["jobs"]] if "jobs" in answer else [answer["message"]]

    assert shown("bob") == shown("root") == ["judy"]
    box.run("gpasswd", "-d", "judy", "queuectl")
    assert shown("bob") == ["the account judy is not in the group that may use this queue"]
    box.run("userdel", "judy")
    assert shown("bob") == ["there is no account with the id 4321"]
    box.run("useradd", "-u", "4321", "-G", "queuectl", "mallory")
    assert shown("bob") == ["the account judy has another name now, or its id is another's"]
    assert machine.ask("mallory", {"op": "token_list"})[0][0]["tokens"][0]["user"] == "judy"


# --- by hand ------------------------------------------------------------------------------------


def test_every_request_is_in_the_matrix() -> None:
    """
    What is new in the protocol is tried by hand too.
    """
    known = {msgspec.inspect.type_info(each).tag for each in get_args(messages.Request)}
    assert known == {request["op"] for request, _ in by_hand(1, "x", "0")}


def test_every_row_of_the_table_means_something() -> None:
    """
    Each cell's words are understood, each row has its case, and no case has lost its row.
    """
    names = [row_name(row) for row in TABLE]
    cases = TYPED.keys() | set(ABOUT_A_JOB) | SHOW_SECRETS | MAY_FIND_FAULTS | SERVES
    assert cases <= set(names)
    for row in TABLE:
        assert rule_of(row[1])
        assert expected(row, "alice") is not None or rule_of(row[1]) is CLOSED


def test_requests_by_hand(machine: Machine) -> None:
    """
    A modified client gets no further: what belongs to others does not exist for a member, in no
    request, by no way of naming it; and what is everybody's is not a member's to change.
    """
    spec = {"command": "echo shown; : hidden", "queue": "of-alice", "env": {"A": "hidden"}}
    script = {"script": "#!/bin/sh\n: hidden\n", "script_name": "hidden", "queue": "of-alice"}
    specs = [{**spec, "id": "target"}, {**script, "id": "script"}, {**spec, "hold": True}]
    (made,), _ = machine.ask(
        "alice",
        {"op": "enqueue", "jobs": specs, "want_jobs": True},
        {"op": "wait", "ids": ["target", "script"]},
    )
    before = machine.jobs_of_alice()
    token_id = machine.token_of("alice").split("_")[1]
    for job in made["jobs"]:
        cases = by_hand(job["number"], job["id"], token_id)
        answers = machine.ask("bob", *[request for request, _ in cases])
        for (request, check), answer in zip(cases, answers, strict=True):
            assert check(answer), (request, answer)
            assert "hidden" not in str(answer), (request, answer)
            assert "shown" not in str(answer), (request, answer)
    assert before == machine.jobs_of_alice()


@pytest.mark.parametrize("admin", ADMINS)
def test_admins_by_hand(machine: Machine, admin: str) -> None:
    """
    They see each job, its counts and its output, and not what runs, in no request.
    """
    job = machine.make_jobs(f"hand-{admin}", {"one": "completed"})["one"]
    number = str(job["number"])
    requests = [
        {"op": "status"},
        {"op": "worker_list"},
        {"op": "list", "ids": [number]},
        {"op": "list", "limit": 1000},
        {"op": "show", "id": number},
        {"op": "wait", "ids": [number]},
        {"op": "logs", "id": number, "follow": True},
        {"op": "act", "action": "prune", "select": {"ids": [number]}},
    ]
    answers = machine.ask(admin, *requests)
    for request, answer in zip(requests, answers, strict=True):
        assert "refused" != answer[-1]["op"], (request, answer)
        assert "hidden" not in str(answer), (request, answer)
        assert ("shown" in str(answer)) == (request["op"] == "logs"), (request, answer)
    assert [number] != answers[-1][0]["ids"]  # It is told the id that alice gave.
    assert job["id"] not in machine.jobs_of_alice()
