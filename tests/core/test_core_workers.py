"""
Workers and settings: how many jobs run at a time, and who said so.
"""

import signal

import pytest
from conversation import Conversation

from queuectl.protocol import (
    WORKERS_MAX,
    Config,
    GetConfig,
    ListWorkers,
    SetConfig,
    StartWorkers,
    StopWorkers,
    Workers,
)
from queuectl.settings import SETTINGS
from queuectl.views import SettingValue
from queuectld.core.records import SettingsChanged, store


def start(talk: Conversation, count: int | None = None) -> list[int]:
    """
    Add workers and return their numbers.
    """
    response = talk.request(StartWorkers(count=count))
    assert isinstance(response, Workers), response
    return response.added


def stop(talk: Conversation, *, now: bool = False) -> Workers:
    """
    Drain all workers.
    """
    response = talk.request(StopWorkers(cancel_running=now))
    assert isinstance(response, Workers)
    return response


def test_a_daemon_begins_with_a_worker_per_cpu() -> None:
    """
    Without the setting there are as many workers as CPUs, also when that number changed.
    """
    talk = Conversation(workers=3)
    assert [1, 2, 3] == [number for number, _ in talk.slots()]
    talk.cpu_count = 2
    talk.restart()
    assert [1, 2] == [number for number, _ in talk.slots()]


def test_workers_are_added_with_the_lowest_free_numbers() -> None:
    """
    worker start adds; numbers of draining workers are not given twice.
    """
    talk = Conversation(workers=2)
    assert [3, 4] == start(talk, 2)
    assert [5] == start(talk)
    first = talk.enqueue()
    second = talk.enqueue()
    talk.exit(first)
    assert 1 == stop(talk).draining_count
    assert [(2, "draining")] == talk.slots()
    assert [1, 3] == start(talk, 2)
    talk.exit(second)
    assert [(1, "idle"), (3, "idle")] == talk.slots()


def test_workers_start_with_the_setting_when_there_are_none() -> None:
    """
    worker start without a count brings the usual number back, and at least one.
    """
    talk = Conversation(workers=2)
    stop(talk)
    assert [1, 2] == start(talk)
    talk.set("workers", 0)
    assert [] == talk.slots()
    assert [1] == start(talk)


def test_stopping_workers_lets_running_jobs_finish() -> None:
    """
    A drained worker takes no other job and goes when its job ends.
    """
    talk = Conversation(workers=1)
    running, waiting = talk.enqueue(), talk.enqueue()
    stop(talk)
    assert ([(1, "draining")], []) == (talk.slots(), talk.signals())
    talk.exit(running)
    assert ("completed", "pending", []) == (*talk.states(running, waiting), talk.slots())
    assert "there are no workers; queuectl worker start adds some" == talk.detail(waiting).why


def test_stopping_workers_now_cancels_running_jobs() -> None:
    """
    worker stop --now cancels what runs, also what is timing out, and sends no signal twice to what
    is being cancelled.
    """
    talk = Conversation(workers=3)
    timing_out = talk.enqueue(timeout_ms=1000)
    cancelled, running = talk.enqueue(), talk.enqueue()
    talk.advance(1000)
    talk.act("cancel", cancelled)

    stop(talk, now=True)

    assert [(1, signal.SIGTERM), (3, signal.SIGTERM)] == talk.signals()
    for job in (timing_out, cancelled, running):
        talk.exit(job, None, 15)
    assert ["cancelled"] * 3 == talk.states(timing_out, cancelled, running)


def test_draining_holds_over_a_restart() -> None:
    """
    Stopped workers stay stopped, and a draining one goes on draining.
    """
    talk = Conversation(workers=2)
    job = talk.enqueue()
    stop(talk)
    for snapshot in (False, True):
        talk.restart(snapshot=snapshot)
        assert [(1, "draining")] == talk.slots()
    talk.exit(job)
    assert [] == talk.slots()


def test_workers_by_hand_stay_over_a_restart_until_the_setting_is_set() -> None:
    """
    What was done by hand last holds; setting `workers` makes the setting hold again.
    """
    talk = Conversation(workers=2)
    start(talk, 3)
    talk.restart(snapshot=True)
    assert 5 == len(talk.slots())
    talk.set("workers", 1)
    assert [(1, "idle")] == talk.slots()
    talk.restart(snapshot=True)
    assert [(1, "idle")] == talk.slots()
    talk.set("workers", unset=True)
    assert [(1, "idle"), (2, "idle")] == talk.slots()
    talk.cpu_count = 4
    talk.restart()
    assert 4 == len(talk.slots())


def test_setting_workers_takes_busy_ones_back_that_were_draining() -> None:
    """
    A worker that drains and is wanted again goes on.
    """
    talk = Conversation(workers=2)
    first = talk.enqueue()
    talk.enqueue()
    stop(talk)
    talk.set("workers", 1)
    assert [(1, "busy"), (2, "draining")] == talk.slots()
    talk.exit(first)
    assert [(1, "idle"), (2, "draining")] == talk.slots()


def test_a_worker_says_since_when_it_is_there() -> None:
    """
    Adding workers, restarts and snapshots change nothing in the uptime of the others.
    """
    talk = Conversation(workers=1)
    talk.advance(1000)
    start(talk, 1)
    talk.enqueue()
    talk.advance(500)
    talk.restart(snapshot=True)
    response = talk.request(ListWorkers())
    assert [1500, 500] == [worker.uptime_ms for worker in response.workers]
    assert ("1", "true", "default") == (
        response.workers[0].job,
        response.workers[0].command,
        response.workers[0].queue,
    )


@pytest.mark.parametrize("count", [0, -1, WORKERS_MAX])
def test_the_number_of_workers_has_limits(count: int) -> None:
    """
    A count below one, or one that makes too many, is refused.
    """
    talk = Conversation(workers=1)
    refused = talk.refused(StartWorkers(count=count))
    assert ("usage", "count") == (refused.code, refused.field)
    assert str(WORKERS_MAX) in refused.message


# --- settings -----------------------------------------------------------------------------------

GOOD: dict[str, list[SettingValue]] = {
    "max_retries": [0, 5, 1000],
    "backoff_base": [1, 2.5, 1000],
    "backoff_max": [0, 1000],
    "backoff_jitter": [0, 0.25, 1],
    "job_timeout": [1, None],
    "kill_after": [0, 1000],
    "workers": [0, 3, None],
    "on_lost": ["retry", "dead", "hold"],
    "retention": [0, 1000],
    "retention_count": [0, 1000],
    "output_limit": [65_536, None],
    "user_weights": ["alice=2", " alice = 1 , bob=100 ", None],
    "user_running_max": [1, None],
    "user_queued_max": [1, 5, None],
    "user_bytes_max": [1 << 20, None],
    "user_connections_max": [1, 512],
}
BAD: dict[str, list[SettingValue]] = {
    "max_retries": [-1, 1001, 1.5, "3", None],
    "backoff_base": [0.5, 1001, "2", None, float("nan"), float("inf")],
    "backoff_max": [-1, 10**15, None],
    "backoff_jitter": [-0.1, 1.5],
    "job_timeout": [0, "1m"],
    "kill_after": [-1, None],
    "workers": [-1, WORKERS_MAX + 1],
    "on_lost": ["explode", 1, None],
    "retention": [-1, None],
    "retention_count": [-1, None],
    "output_limit": [1, "big"],
    "user_weights": [
        *("", "alice", "alice=", "=2", "a b=2", "alice=0", "alice=101", "alice=1.5", "alice=-1"),
        *("alice=2,", "alice=2,alice=3", 2, ",".join(f"u{n}=1" for n in range(1000))),
    ],
    "user_running_max": [0, WORKERS_MAX + 1, "2"],
    "user_queued_max": [0, -1, 10_000_001],
    "user_bytes_max": [0, "1M"],
    "user_connections_max": [0, 513, None],
}


def settings(talk: Conversation) -> dict[str, tuple[SettingValue, str]]:
    """
    Return every setting's value and source.
    """
    response = talk.request(GetConfig())
    assert isinstance(response, Config)
    return {view.key: (view.value, view.source) for view in response.settings}


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_are_set_checked_unset_and_survive(key: str) -> None:
    """
    A good value holds at once and over restarts, a bad one is refused with the key and the rule,
    and unset brings the default back.
    """
    talk = Conversation(workers=2)
    before = settings(talk)[key]
    for value in GOOD[key]:
        talk.set(key, value)
        talk.restart(snapshot=True)
        shown = 2 if (key, value) == ("workers", None) else value
        assert (shown, "set") == settings(talk)[key]
    for value in BAD[key]:
        refused = talk.refused(SetConfig(key=key, value=value))
        assert ("usage", key) == (refused.code, refused.field)
        assert refused.message.startswith(f"{key} ")
        assert GOOD[key][-1] == talk.queue.state.settings[key]
    talk.set(key, unset=True)
    assert before == settings(talk)[key]


def test_settings_have_aliases_and_kebab_case() -> None:
    """
    base-backoff is backoff_base; an unknown name is refused.
    """
    talk = Conversation()
    talk.set("base-backoff", 3)
    talk.set("job_timeout_sec", 7000)
    assert {"backoff_base": 3, "job_timeout": 7000} == talk.queue.state.settings
    refused = talk.refused(SetConfig(key="\x1bx", value=3))
    assert ("usage", "key") == (refused.code, refused.field)
    assert "no setting '\\x1bx'; queuectl config list" == refused.message


def test_settings_of_a_newer_release_are_left_alone() -> None:
    """
    A key or a value that only a newer one knows stops neither the replay nor the queue.
    """
    talk = Conversation()
    newer = {"max_retries": 5, "flux": 1, "on_lost": "explode", "user_weights": "alice=1.5"}
    talk.stored.append(store(SettingsChanged(newer)))
    talk.restart()
    assert {"max_retries": 5} == talk.queue.state.settings
    talk.enqueue()


def test_a_setting_that_does_not_change_is_not_recorded() -> None:
    """
    Setting a value again costs no disk.
    """
    talk = Conversation()
    talk.set("max_retries", 5)
    talk.set("max_retries", 5)
    assert [] == talk.records
