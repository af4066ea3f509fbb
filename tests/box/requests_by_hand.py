"""
Every request of the protocol as a member would make it by hand about a job of somebody else's, and
what must come of it.
"""

from collections.abc import Callable
from typing import Any, get_args

from queuectl.protocol import Action

Check = Callable[[list[dict[str, Any]]], bool]


def is_refused(code: str) -> Check:
    return lambda answers: (answers[0]["op"], answers[0].get("code")) == ("refused", code)


def is_op(op: str) -> Check:
    return lambda answers: answers[-1]["op"] == op


def errs(code: str) -> Check:
    """
    Nothing was done, and each job has this error.
    """

    def check(answers: list[dict[str, Any]]) -> bool:
        (answer,) = answers
        codes = {error["code"] for error in answer.get("errors", [])}
        return (answer["op"], answer["ids"], codes) == ("acted", [], {code})

    return check


def lists_only(user: str) -> Check:
    return lambda answers: all(job["user"] == user for job in answers[0]["jobs"])


def shows_only(user: str) -> Check:
    return lambda answers: {token["user"] for token in answers[0]["tokens"]} <= {user}


def measures_only(user: str) -> Check:
    return lambda answers: {each["user"] for each in answers[0]["series"]} <= {user}


def acted_on_none(answers: list[dict[str, Any]]) -> bool:
    return (answers[0]["op"], answers[0]["ids"]) == ("acted", [])


def by_hand(number: int, job_id: str, token_id: str) -> list[tuple[dict[str, Any], Check]]:
    """
    Return requests about a job and a token of alice's that another member makes, and what is to
    come of it.
    """
    denied, not_found = is_refused("denied"), is_refused("not_found")
    cases: list[tuple[dict[str, Any], Check]] = [
        ({"op": "hello", "protocol": 1}, is_op("welcome")),
        ({"op": "status"}, is_op("status_report")),
        ({"op": "worker_list"}, is_op("workers")),
        ({"op": "config_get"}, is_op("config")),
        ({"op": "queue_list"}, is_op("queues")),
        ({"op": "worker_start", "count": 1}, denied),
        ({"op": "worker_stop"}, denied),
        ({"op": "worker_stop", "cancel_running": True}, denied),
        ({"op": "config_set", "key": "max_retries", "value": 9}, denied),
        ({"op": "config_set", "key": "max_retries", "unset": True}, denied),
        ({"op": "queue_set", "name": "default", "concurrency": 1}, denied),
        ({"op": "queue_set", "name": "new", "paused": True}, denied),
        ({"op": "queue_delete", "name": "default"}, denied),
        ({"op": "shutdown"}, denied),
        ({"op": "enqueue", "jobs": [{"command": "true", "priority": 1}]}, denied),
        ({"op": "enqueue", "jobs": [{"command": "true", "user": "alice"}]}, denied),
        ({"op": "enqueue", "jobs": [{"command": "true", "user": "root"}]}, denied),
        ({"op": "enqueue", "jobs": [{"command": "true", "user": "bob"}]}, is_op("enqueued")),
        ({"op": "token_create", "scopes": ["read"]}, is_op("token_created")),
        ({"op": "token_create", "scopes": ["read"], "user": "alice"}, denied),
        ({"op": "token_list"}, shows_only("bob")),
        ({"op": "token_list", "user": "alice"}, shows_only("nobody")),
        ({"op": "token_revoke", "id": token_id}, not_found),
        ({"op": "metrics_get"}, measures_only("bob")),
        ({"op": "history_get", "user": "alice"}, not_found),
        ({"op": "list", "limit": 1000}, lists_only("bob")),
        ({"op": "list", "states": ["completed", "dead"], "queue": "of-alice"}, lists_only("bob")),
        ({"op": "list", "before_number": number + 1, "queue": "of-alice"}, lists_only("bob")),
    ]
    for text in (job_id, str(number)):
        cases += [
            ({"op": "show", "id": text}, not_found),
            ({"op": "logs", "id": text}, not_found),
            ({"op": "logs", "id": text, "attempt": 1}, not_found),
            ({"op": "logs", "id": text, "follow": True, "offset": 0}, not_found),
            ({"op": "wait", "ids": [text]}, not_found),
            ({"op": "wait", "ids": [text], "any": True}, not_found),
            ({"op": "watch", "ids": [text]}, not_found),
            ({"op": "list", "ids": [text]}, not_found),
            ({"op": "list", "after": text}, not_found),
            ({"op": "edit", "select": {"ids": [text]}, "priority": -1}, errs("not_found")),
        ]
        cases += [
            ({"op": "act", "action": action, "select": {"ids": [text]}}, errs("not_found"))
            for action in get_args(Action)
        ]
    for action in get_args(Action):
        ranged = {"ids": [f"{number}-{number}"]}
        cases.append(({"op": "act", "action": action, "select": ranged}, errs("not_found")))
        of_alice: dict[str, Any] = {"queue": "of-alice"}
        for select in (of_alice, {**of_alice, "states": ["completed", "dead", "held"]}):
            cases.append(({"op": "act", "action": action, "select": select}, acted_on_none))
        # Which may be about jobs of one's own: whoever compares alice's sees that it is only those.
        cases.append(({"op": "act", "action": action, "select": {"all": True}}, is_op("acted")))
    return cases
