"""
The API's jobs: made, listed, looked at, acted on.
"""

import uuid
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess

from queuectl.protocol import BATCH_JOBS_MAX
from queuectl.views import JobError

JOBS = "/api/v1/jobs"


def made(client: httpx.Client, document: Any, **options: Any) -> Any:
    """
    Make a job, or many, and return the answer's document.
    """
    answer = client.post(JOBS, json=document, **options)
    assert answer.status_code == 201, answer.text
    return answer.json()


def held(client: httpx.Client, **fields: Any) -> str:
    """
    Make a job that does not start, and return its id.
    """
    job_id: str = made(client, {"command": "true", "hold": True, **fields})["id"]
    return job_id


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    """
    Return the status, code and field of a refusal, whose form is checked.
    """
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document.keys() == {"type", "title", "status", "code", "detail", "field", "index"}
    assert document["status"] == answer.status_code
    assert document["title"] == answer.reason_phrase
    assert "\n" not in document["detail"]
    return answer.status_code, document["code"], document["field"]


# --- made ---------------------------------------------------------------------------------------


def test_one_job_is_made_and_shown(client: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    The answer is the job; it is where Location says, and it runs.
    """
    answer = client.post(JOBS, json={"command": "echo $GREETING", "env": {"GREETING": "hi"}})
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"{JOBS}/{job['id']}"
    assert (job["command"], job["cwd"], job["queue"]) == ("echo $GREETING", "~", "default")
    web_daemon.wait_for(job["id"], "completed")
    shown = client.get(answer.headers["location"]).json()
    assert (shown["state"], shown["env"], shown["exit_code"]) == (
        "completed",
        {"GREETING": "hi"},
        0,
    )
    (run,) = client.get(f"{JOBS}/{job['id']}/attempts").json()["attempts"]
    assert [run] == shown["runs"]
    assert client.get(f"{JOBS}/{job['id']}/output").content == b"hi\n"


def test_fields_are_those_of_enqueue(client: httpx.Client) -> None:
    """
    Names, spellings of priorities and spans, and what null means are those of the command.
    """
    job = made(
        client,
        {
            "argv": ["make", "-j2"],
            "priority": "low",
            "max-attempts": 3,
            "timeout": "1h30m",
            "kill_after": 5,
            "delay": "2h",
            "cwd": "/tmp",
            "queue": "fields",
            "id": None,
        },
    )
    assert ("make -j2", ["make", "-j2"]) == (job["command"], job["argv"])
    assert (-10, 2, 5400, 5, "/tmp") == tuple(
        job[key] for key in ("priority", "max_retries", "timeout", "kill_after", "cwd")
    )
    assert ("scheduled", "fields") == (job["state"], job["queue"])


@pytest.mark.parametrize(
    ("document", "field", "said"),
    [
        ({}, None, "a job needs a command"),
        ({"command": ""}, "command", "must not be empty"),
        ({"command": "true", "priority": "urgent"}, "priority", "high, medium or low"),
        ({"command": "true", "comand": 1}, "comand", "did you mean command?"),
        ({"command": "true", "cwd": "src"}, "cwd", "must be absolute"),
        ({"command": "true", "cwd": "~bob"}, "cwd", "must be absolute"),
        ({"command": "true", "timeout": 0}, "timeout", "must be longer than 0"),
        ({"command": "true", "priority": 1001}, "priority", "between -1000 and 1000"),
        ({"command": "true", "id": "a b"}, "id", "without spaces"),
        ({"command": "true", "priority": 10**30}, "priority", "must be a whole number"),
        ({"command": "true", "max_retries": "9" * 40}, "max_retries", "whole number"),
        ({"command": "true", "delay": 1e308}, "delay", "at most ten years"),
        ({"command": "true", "delay": 1 << 63}, "delay", "at most ten years"),
        ({"command": "true", "timeout": "9" * 40 + "d"}, "timeout", "at most ten years"),
        ("true", None, "must be a JSON object"),
        (17, None, "must be a JSON object"),
        ([], "jobs", "from 1 to 10000 jobs, not 0"),
    ],
)
def test_what_breaks_a_rule_is_refused(
    client: httpx.Client, document: Any, field: str | None, said: str
) -> None:
    """
    With the field, and the line that the command would print.
    """
    answer = client.post(JOBS, json=document)
    assert (400, "usage", field) == problem(answer)
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"command": tru}', "line 1 column"),
        (b"", "not valid JSON"),
        (b'{"command": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_json_is_refused(client: httpx.Client, data: bytes, said: str) -> None:
    """
    And it is said where it ends to be.
    """
    answer = client.post(JOBS, content=data, headers={"Content-Type": "application/json"})
    assert (400, "usage", None) == problem(answer)
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("job_id", ["naïve:ü;x", "ジョブ", "50%", "a?b#c"])
def test_any_id_is_part_of_a_path(client: httpx.Client, job_id: str) -> None:
    """
    Location has it percent-encoded, and leads to the job.
    """
    answer = client.post(JOBS, json={"command": "true", "hold": True, "id": job_id})
    assert 201 == answer.status_code, answer.text
    assert answer.headers["location"].isascii()
    assert job_id == client.get(answer.headers["location"]).json()["id"]


def test_a_taken_id_is_a_conflict(client: httpx.Client) -> None:
    """
    As for the command.
    """
    held(client, id="taken")
    answer = client.post(JOBS, json={"command": "true", "id": "taken"})
    assert (409, "conflict", "id") == problem(answer)


def test_a_batch_is_made_whole_or_not_at_all(client: httpx.Client) -> None:
    """
    The ids are in the order of the request; a bad job is named by its index, and nothing is made.
    """
    batch = [{"command": "true", "queue": "whole", "hold": True} for _ in range(3)]
    answer = made(client, batch)
    assert ([], False, 3) == (answer["errors"], answer["existing"], len(answer["ids"]))
    for bad, code in (({"command": ""}, "usage"), ({"command": "x", "id": "last"}, "usage")):
        refused = client.post(JOBS, json=[*batch, bad])
        assert (400, code) == problem(refused)[:2]
        assert 3 == refused.json()["index"]
    listed = client.get(JOBS, params={"queue": "whole"}).json()["jobs"]
    assert [job["id"] for job in listed] == answer["ids"][::-1]


def test_a_partial_batch_says_what_was_left_out(client: httpx.Client) -> None:
    """
    What this side refuses and what the daemon refuses, each at its index.
    """
    held(client, id="there-is-one")
    batch = [
        {"command": "true", "hold": True},
        {"command": ""},
        {"command": "true", "id": "there-is-one"},
        {"command": "true", "hold": True},
    ]
    answer = client.post(JOBS, params={"partial": "true"}, json=batch)
    assert answer.status_code == 200
    document = answer.json()
    assert [True, False, False, True] == [each is not None for each in document["ids"]]
    errors = [(each["index"], each["code"], each["field"]) for each in document["errors"]]
    assert [(1, "usage", "command"), (2, "conflict", "id")] == errors
    assert set(JobError.__struct_fields__) == document["errors"][0].keys()
    none = client.post(JOBS, params={"partial": "true"}, json=[{"command": ""}])
    assert (200, [None]) == (none.status_code, none.json()["ids"])


def test_lines_are_a_batch(client: httpx.Client) -> None:
    """
    One object a line; a line that is no JSON is named.
    """
    lines = '{"command": "true", "hold": true}\n\n{"command": "true", "hold": true}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    answer = client.post(JOBS, content=lines, headers=headers)
    assert (201, 2) == (answer.status_code, len(answer.json()["ids"]))
    refused = client.post(JOBS, content=lines + "{", headers=headers)
    assert (400, "usage", None) == problem(refused)
    assert "line 4" in refused.json()["detail"]


def test_a_batch_has_a_limit(client: httpx.Client) -> None:
    """
    The protocol's; and a request that no frame can hold is too long.
    """
    answer = client.post(JOBS, json=[{"command": "x"}] * (BATCH_JOBS_MAX + 1))
    assert (400, "usage", "jobs") == problem(answer)
    assert str(BATCH_JOBS_MAX) in answer.json()["detail"]
    long = client.post(JOBS, json=[{"command": "x" * 120_000}] * 40)
    assert (413, "usage", None) == problem(long)


def test_a_repeated_request_makes_nothing(client: httpx.Client) -> None:
    """
    With the key of a request before, the answer has the jobs of that one, whatever the body is, and
    says so with its status.
    """
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = made(client, {"command": "true", "hold": True}, headers=key)
    again = client.post(JOBS, json={"command": "false"}, headers=key)
    assert (200, first) == (again.status_code, again.json())
    quoted = {"Idempotency-Key": f'"{key["Idempotency-Key"]}"'}
    assert 200 == client.post(JOBS, json={"command": "true"}, headers=quoted).status_code
    many = {"Idempotency-Key": uuid.uuid4().hex}
    batch = [{"command": "true", "hold": True}] * 2
    ids = made(client, batch, headers=many)["ids"]
    again = client.post(JOBS, json=batch, headers=many)
    assert (200, ids, True) == (again.status_code, again.json()["ids"], again.json()["existing"])
    for wrong in ("", "x" * 129):
        refused = client.post(JOBS, json={"command": "x"}, headers={"Idempotency-Key": wrong})
        assert (400, "usage") == problem(refused)[:2]


# --- listed -------------------------------------------------------------------------------------


def test_lists_are_filtered_and_paged(client: httpx.Client) -> None:
    """
    Newest first; `next`, and a Link header with all of the query, lead to the page that follows.
    """
    ids = [held(client, queue="paged") for _ in range(5)]
    other = made(client, {"command": "sleep 1h", "queue": "paged", "delay": "1h"})["id"]
    query = {"queue": "paged", "state": "held", "limit": 2}
    found: list[str] = []
    answer = client.get(JOBS, params=query)
    while True:
        found += [job["id"] for job in answer.json()["jobs"]]
        if answer.json()["next"] is None:
            assert "link" not in answer.headers
            break
        assert answer.json()["next"] in answer.headers["link"]
        answer = client.get(answer.links["next"]["url"])
        assert len(answer.json()["jobs"]) <= 2
    assert ids[::-1] == found
    both = client.get(JOBS, params={"queue": "paged", "state": "held,scheduled"}).json()["jobs"]
    assert [other, *ids[::-1]] == [job["id"] for job in both]
    twice = client.get(f"{JOBS}?queue=paged&state=held&state=scheduled").json()["jobs"]
    assert both == twice
    (searched,) = client.get(JOBS, params={"search": "SLEEP 1h"}).json()["jobs"]
    assert other == searched["id"]
    assert [] == client.get(JOBS, params={"user": "nobody"}).json()["jobs"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("stat=held", "stat"),
        ("state=hold", "state"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=abc", "cursor"),
        ("queue=%ff", None),
    ],
)
def test_a_query_is_read_strictly(client: httpx.Client, query: str, field: str | None) -> None:
    """
    What is misspelt must not count as not given.
    """
    assert (400, "usage", field) == problem(client.get(f"{JOBS}?{query}"))


def test_a_job_that_is_not_there(client: httpx.Client) -> None:
    """
    Is not found, whatever is asked of it; neither is a range, which names no one job.
    """
    for method, path in (
        ("GET", ""),
        ("GET", "/attempts"),
        ("GET", "/output"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("POST", "/hold"),
        ("POST", "/release"),
    ):
        for job_id in ("nobody", "1-3"):
            answer = client.request(method, f"{JOBS}/{job_id}{path}")
            assert (404, "not_found", "id") == problem(answer), path
    assert 404 == client.patch(f"{JOBS}/nobody", json={"priority": 0}).status_code


# --- acted on -----------------------------------------------------------------------------------


def test_verbs_answer_with_the_job(client: httpx.Client) -> None:
    """
    As it is afterwards; in a state in which a verb does not work, it is a conflict.
    """
    job = held(client, delay="1h")
    states = []
    for verb in ("release", "hold", "cancel", "retry"):
        answer = client.post(f"{JOBS}/{job}/{verb}")
        assert answer.status_code == 200, answer.text
        states.append(answer.json()["state"])
    assert ["scheduled", "held", "cancelled"] == states[:3]
    assert states[3] in ("pending", "processing", "completed")
    wait_until(lambda: client.get(f"{JOBS}/{job}").json()["state"] == "completed")
    answer = client.post(f"{JOBS}/{job}/cancel")
    assert (409, "conflict", None) == problem(answer)
    assert "job" in answer.json()["detail"]


def test_a_job_gets_another_priority(client: httpx.Client) -> None:
    """
    By number or by name.
    """
    job = held(client)
    for given, priority in ((7, 7), ("low", -10), ("high", 10)):
        answer = client.patch(f"{JOBS}/{job}", json={"priority": given})
        assert (200, priority) == (answer.status_code, answer.json()["priority"])
    for wrong in ({"priority": "urgent"}, {}, {"priority": 1, "queue": "x"}, {"priority": 1001}):
        assert (400, "usage") == problem(client.patch(f"{JOBS}/{job}", json=wrong))[:2]


def test_many_jobs_are_acted_on_at_once(client: httpx.Client) -> None:
    """
    By ids, each of which may be refused, or by filters.
    """
    ids = [held(client, queue="many") for _ in range(3)]

    def act(action: str, select: dict[str, Any], **fields: Any) -> Any:
        body = {"action": action, "select": select, **fields}
        answer = client.post(f"{JOBS}/actions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    done = act("release", {"ids": [ids[0], "nobody"]})
    assert ([ids[0]], ["not_found"]) == (done["ids"], [each["code"] for each in done["errors"]])
    assert ids[1:] == act("edit", {"queue": "many", "states": ["held"]}, priority="low")["ids"]
    assert [] == act("cancel", {"queue": "many"}, older_than="1h")["ids"]
    done = act("cancel", {"queue": "many"})
    assert {"ids": ids[1:], "errors": [], "more": None} == {
        **done,
        "ids": [each for each in done["ids"] if each != ids[0]],
    }
    for body in (
        {"action": "cancel", "select": {}},
        {"action": "explode", "select": {"all": True}},
        {"action": "cancel", "select": {"all": True}, "priority": 1},
        {"action": "edit", "select": {"all": True}},
        {"action": "cancel"},
        {"action": "prune", "select": {"all": True}, "older_than": "9" * 40 + "d"},
    ):
        assert (400, "usage") == problem(client.post(f"{JOBS}/actions", json=body))[:2]


# --- methods, scopes ----------------------------------------------------------------------------


def test_other_methods_are_refused_with_those_that_there_are(client: httpx.Client) -> None:
    """
    405 with Allow; OPTIONS says the same; HEAD is GET without the body.
    """
    answer = client.delete(JOBS)
    assert (405, "usage", None) == problem(answer)
    assert "GET, HEAD, OPTIONS, POST" == answer.headers["allow"]
    answer = client.options(JOBS)
    assert (204, "GET, HEAD, OPTIONS, POST") == (answer.status_code, answer.headers["allow"])
    answer = client.head(JOBS)
    assert (200, b"") == (answer.status_code, answer.content)
    assert (404, "not_found", None) == problem(client.get("/api/v1/nothing"))


def test_a_token_does_what_its_scopes_say(gateway: GatewayProcess) -> None:
    """
    Looking, making and changing are three things.
    """
    reader, maker = gateway.token_client("read"), gateway.token_client("submit")
    job = made(maker, {"command": "true", "hold": True})["id"]
    assert (403, "denied") == problem(maker.get(f"{JOBS}/{job}"))[:2]
    assert 200 == reader.get(f"{JOBS}/{job}").status_code
    assert (403, "denied") == problem(reader.post(JOBS, json={"command": "true"}))[:2]
    assert (403, "denied") == problem(reader.post(f"{JOBS}/{job}/cancel"))[:2]
    changer, blind = gateway.token_client("read", "manage"), gateway.token_client("manage")
    assert (403, "denied") == problem(blind.post(f"{JOBS}/{job}/cancel"))[:2]
    select = {"action": "release", "select": {"ids": [job]}}
    assert [job] == blind.post(f"{JOBS}/actions", json=select).json()["ids"]
    assert 200 == changer.post(f"{JOBS}/{held(gateway.token_client())}/cancel").status_code
