"""
The API's dead letter queue, workers, queues, settings and waiting; the routes of older programs.
"""

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess

from queuectl import __version__
from queuectl.settings import SETTINGS
from queuectl.web.api_service import WAIT_MS_MAX

V1 = "/api/v1"


def status_and_code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


@pytest.fixture
def own(daemon: DaemonProcess, gateways: Callable[..., GatewayProcess]) -> Iterator[httpx.Client]:
    """
    A client of a daemon and a gateway of the test's own.
    """
    return gateways(daemon).start().token_client()


def dead_job(client: httpx.Client, daemon: DaemonProcess) -> str:
    body = {"command": "exit 3", "max_retries": 0}
    job_id: str = client.post(f"{V1}/jobs", json=body).json()["id"]
    daemon.wait_for(job_id, "dead")
    return job_id


# --- the dead letter queue ----------------------------------------------------------------------


def test_the_dead_letter_queue(own: httpx.Client, daemon: DaemonProcess) -> None:
    """
    Dead jobs are listed, shown, retried one by one or all, and purged; others are no dead ones.
    """
    first, second, third = (dead_job(own, daemon) for _ in range(3))
    good = own.post(f"{V1}/jobs", json={"command": "true", "hold": True}).json()["id"]
    page = own.get(f"{V1}/dlq", params={"limit": 2}).json()
    assert [third, second] == [job["id"] for job in page["jobs"]]
    rest = own.get(f"{V1}/dlq", params={"cursor": page["next"]}).json()
    assert ([first], None) == ([job["id"] for job in rest["jobs"]], rest["next"])
    assert "dlq retry" in own.get(f"{V1}/dlq/{first}").json()["next"]
    for answer in (own.get(f"{V1}/dlq/{good}"), own.post(f"{V1}/dlq/{good}/retry")):
        assert (409, "conflict") == status_and_code(answer)
    assert (404, "not_found") == status_and_code(own.post(f"{V1}/dlq/nobody/retry"))

    assert first == own.post(f"{V1}/dlq/{first}/retry").json()["id"]
    wait_until(lambda: len(daemon.show(first).runs) == 2)
    daemon.wait_for(first, "dead")
    done = own.post(f"{V1}/dlq/retry", json={"ids": [second, good, "nobody"]}).json()
    assert [second] == done["ids"]
    assert ["not_found", "conflict"] == [error["code"] for error in done["errors"]]
    wait_until(lambda: len(daemon.show(second).runs) == 2)
    daemon.wait_for(second, "dead")
    assert 3 == len(own.post(f"{V1}/dlq/retry", json={"all": True}).json()["ids"])
    wait_until(lambda: own.get(f"{V1}/status").json()["dlq"] == 3)
    assert [first] == own.post(f"{V1}/dlq/purge", json={"ids": [first]}).json()["ids"]
    assert 2 == len(own.post(f"{V1}/dlq/purge", json={"all": True}).json()["ids"])
    assert [] == own.get(f"{V1}/dlq").json()["jobs"]
    for body in ({}, {"all": True, "ids": ["1"]}, {"al": True}):
        assert (400, "usage") == status_and_code(own.post(f"{V1}/dlq/purge", json=body))


# --- workers, queues ----------------------------------------------------------------------------


def test_workers_are_started_and_stopped(own: httpx.Client) -> None:
    """
    With a body or without one.
    """
    before = len(own.get(f"{V1}/workers").json()["workers"])
    answer = own.post(f"{V1}/workers/start", json={"count": 2}).json()
    assert (2, before + 2) == (len(answer["added"]), len(answer["workers"]))
    assert 1 == len(own.post(f"{V1}/workers/start").json()["added"])
    assert [] == own.post(f"{V1}/workers/stop", json={"now": True}).json()["workers"]
    assert [] == own.post(f"{V1}/workers/stop").json()["workers"]
    for body in ({"count": 0}, {"count": "2"}, {"cont": 1}, {"count": 5000}, []):
        assert (400, "usage") == status_and_code(own.post(f"{V1}/workers/start", json=body))


def test_queues_are_set_and_deleted(client: httpx.Client) -> None:
    """
    What is left out stays; null lifts the limit.
    """
    path = f"{V1}/queues/heavy"
    assert (404, "not_found") == status_and_code(client.get(path))
    assert (404, "not_found") == status_and_code(client.post(f"{path}/pause"))
    queue = client.put(path, json={"concurrency": 2}).json()
    assert ("heavy", 2, False, 0) == tuple(
        queue[key] for key in ("name", "concurrency", "paused", "running")
    )
    assert (2, True) == _limit(client.post(f"{path}/pause"))
    assert (None, True) == _limit(client.put(path, json={"concurrency": None}))
    assert (None, False) == _limit(client.post(f"{path}/resume"))
    assert (3, True) == _limit(client.put(path, json={"concurrency": 3, "paused": True}))
    assert "heavy" in [each["name"] for each in client.get(f"{V1}/queues").json()["queues"]]
    assert (204, b"") == ((gone := client.delete(path)).status_code, gone.content)
    assert (404, "not_found") == status_and_code(client.delete(path))
    for body in ({}, {"concurrency": -1}, {"limit": 1}):
        assert (400, "usage") == status_and_code(client.put(path, json=body))


def _limit(answer: httpx.Response) -> tuple[int | None, bool]:
    document = answer.json()
    return document["concurrency"], document["paused"]


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("max_retries", 5, 5),
        ("max-retries", "6", 6),
        ("backoff_base", 1.5, 1.5),
        ("backoff_max", 90, 90),
        ("backoff_max", "2m", 120),
        ("kill_after", 0.5, 0.5),
        ("job_timeout", None, None),
        ("job_timeout", "none", None),
        ("output_limit", "256M", 256 << 20),
        ("output_limit", 1 << 20, 1 << 20),
        ("on_lost", "hold", "hold"),
        ("user_weights", "alice=2", "alice=2"),
        ("retention_count", 10.0, 10),
    ],
)
def test_a_setting_is_set_and_unset(
    client: httpx.Client, key: str, given: object, value: object
) -> None:
    """
    As answers have it, or as people write it.
    """
    path = f"{V1}/config/{key}"
    answer = client.put(path, json={"value": given})
    assert 200 == answer.status_code, answer.text
    assert (value, "set") == (answer.json()["value"], answer.json()["source"])
    assert answer.json() == client.get(path).json()
    unset = client.delete(path).json()
    assert ("default", unset["default"]) == (unset["source"], unset["value"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_retries", '"many"'),
        ("max_retries", "1.5"),
        ("max_retries", "true"),
        ("max_retries", "[1]"),
        ("max_retries", "null"),
        ("max_retries", "-1"),
        ("backoff_base", "1e308"),
        ("kill_after", "1e300"),
        ("kill_after", "1e308"),
        ("output_limit", "5"),
        ("on_lost", "1"),
        ("user_weights", "17"),
    ],
)
def test_a_setting_obeys_its_rule(client: httpx.Client, key: str, value: str) -> None:
    """
    One that it breaks is named, and nothing has changed.
    """
    path, headers = f"{V1}/config/{key}", {"Content-Type": "application/json"}
    before = client.get(path).json()
    answer = client.put(path, content=f'{{"value": {value}}}', headers=headers)
    assert (400, "usage") == status_and_code(answer)
    assert {key, "$.value"} & set(re.findall(r"[$.\w]+", answer.json()["detail"]))
    assert before == client.get(path).json()


def test_a_setting_that_there_is_not(client: httpx.Client) -> None:
    """
    Is not found, with the one that was perhaps meant.
    """
    for method in ("GET", "DELETE", "PUT"):
        answer = client.request(
            method, f"{V1}/config/max_retry", json={"value": 1} if method == "PUT" else None
        )
        assert (404, "not_found") == status_and_code(answer)
        assert "max_retries" in answer.json()["detail"]
    keys = [each["key"] for each in client.get(f"{V1}/config").json()["settings"]]
    assert sorted(SETTINGS) == keys


# --- the whole ----------------------------------------------------------------------------------


def test_status_and_version(client: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    What the commands say, of the daemon that the gateway has.
    """
    status = client.get(f"{V1}/status").json()
    assert (web_daemon.socket, "user") == (status["socket"], status["mode"])
    version = client.get(f"{V1}/version").json()
    assert (__version__, __version__) == (version["gateway"], version["daemon"])
    assert status["daemon"]["pid"] == version["pid"]


def test_waiting_for_jobs(client: httpx.Client) -> None:
    """
    Until all have finished, or one; who waits in vain is told, and may ask again.
    """
    jobs = [client.post(f"{V1}/jobs", json={"command": "true"}).json()["id"] for _ in range(2)]
    done = client.post(f"{V1}/wait", json={"ids": jobs}).json()["jobs"]
    assert [(job, "completed") for job in jobs] == [(job["id"], job["state"]) for job in done]
    held = client.post(f"{V1}/jobs", json={"command": "true", "hold": True}).json()["id"]
    (any_job,) = client.post(f"{V1}/wait", json={"ids": [held, jobs[0]], "any": True}).json()[
        "jobs"
    ]
    assert jobs[0] == any_job["id"]
    answer = client.post(f"{V1}/wait", json={"ids": [held], "timeout": "10ms"})
    assert (504, "timed_out") == status_and_code(answer)
    assert (404, "not_found") == status_and_code(
        client.post(f"{V1}/wait", json={"ids": ["nobody"]})
    )
    for body in ({"ids": []}, {}, {"ids": [held], "timeout": WAIT_MS_MAX / 1000 + 1}):
        assert (400, "usage") == status_and_code(client.post(f"{V1}/wait", json=body))


def test_who_stops_waiting_is_not_waited_for(client: httpx.Client, gateway: GatewayProcess) -> None:
    """
    The connection over which the gateway waited ends with the client's.
    """
    held = client.post(f"{V1}/jobs", json={"command": "true", "hold": True}).json()["id"]
    before = gateway.socket_count()
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{V1}/wait", json={"ids": [held], "timeout": 600}, timeout=0.05)
    wait_until(lambda: gateway.socket_count() <= before)


# --- older programs -----------------------------------------------------------------------------


def test_routes_of_older_programs(own: httpx.Client, daemon: DaemonProcess) -> None:
    """
    The bodies that they sent, and answers in which they find what they looked for.
    """
    body = {"command": "sleep 1h", "priority": "high", "max_retries": 2, "hold": True}
    job = own.post("/api/jobs", json=body)
    assert (201, 10, 2) == (job.status_code, job.json()["priority"], job.json()["max_retries"])
    dead = dead_job(own, daemon)
    before = len(own.get(f"{V1}/workers").json()["workers"])
    assert before + 2 == len(own.post("/api/workers/start", json={"count": 2}).json()["workers"])
    data = own.get("/api/data").json()
    assert {"jobs", "workers", "config", "summary"} == data.keys()
    assert [dead, job.json()["id"]] == [each["id"] for each in data["jobs"]]
    assert (1, 1) == (data["summary"]["dead"], data["summary"]["held"])
    assert before + 2 == len(data["workers"])
    assert 3 == data["config"]["max_retries"]
    assert [] == own.post("/api/workers/stop").json()["workers"]
    assert dead == own.post(f"/api/dlq/retry/{dead}").json()["id"]
    assert 5 == own.put("/api/config", json={"max_retries": 5}).json()["max_retries"]
    named = {"key": "max-retries", "value": "6"}
    assert 6 == own.put("/api/config", json=named).json()["max_retries"]
    both = {"max_retries": 7, "backoff_base": 0}
    assert (400, "usage") == status_and_code(own.put("/api/config", json=both))
    assert 6 == own.get("/api/data").json()["config"]["max_retries"]
    assert (400, "usage") == status_and_code(own.put("/api/config", json={}))
