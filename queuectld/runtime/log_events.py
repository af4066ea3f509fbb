"""
Every event of the daemon's log: its MESSAGE_ID in the system's journal and what it says there.

An id is for ever: people and programs select by it, and systemd/queuectl.catalog explains it. A
new kind of event gets a new id (systemd-id128 new), a kind that goes leaves its id unused.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from queuectl.durations import describe_duration


class Kind(NamedTuple):
    """
    `message` is a format over the event's fields, or a function of them where that is not enough.
    """

    message_id: str
    message: str | Callable[[Mapping[str, Any]], str]


def _run_ended(event: Mapping[str, Any]) -> str:
    how = event.get("error") or "ended with exit code 0"
    span = describe_duration(event["span_ms"])
    run = f"Job {event['id']}: attempt {event['attempt']}"
    return f"{run}: {how}, after {span}; it is {event['state']}"


def _runs_summed(event: Mapping[str, Any]) -> str:
    words = ("enqueued", "started", "ended", "failed", "stopped", "moved", "tokens")
    counts = ", ".join(f"{event[word]} {word}" for word in words if event.get(word))
    return f"Jobs in the last second beyond those told one by one: {counts}"


def _token_made(event: Mapping[str, Any]) -> str:
    return f"Token {_token(event)} made{_by(event)}: {event['scopes']}"


def _token_forgotten(event: Mapping[str, Any]) -> str:
    return f"Token {_token(event)} {event['why']}{_by(event)}"


def _token(event: Mapping[str, Any]) -> str:
    user = event.get("user")
    return f"{event['token']} of {user}" if user else str(event["token"])


def _by(event: Mapping[str, Any]) -> str:
    by = event.get("by")
    return f" by {by}" if by else ""


KINDS: dict[str, Kind] = {
    # The daemon's life
    "recovered": Kind(
        "20de26ba201a4b8e8143b5714d3b6b51",
        "Recovered {jobs} jobs from {records} records, {torn_bytes} bytes torn",
    ),
    "daemon_started": Kind(
        "ca05402ab5d44a179d5584ef6451232b", "queuectld {version} started, epoch {epoch}"
    ),
    "listening": Kind("9da33b9fe47b4d7ab64bd198b1079718", "Listening at {socket}"),
    "stopping": Kind(
        "41c10842769c4205a3e1170f62e50afb", "Stopping on {signal}; running jobs go on"
    ),
    "daemon_stopped": Kind("a1ea957f3f7445e8b2710129e40c84c2", "Stopped; everything is on disk"),
    "refused_to_run": Kind("6d1330f9f3e54bb08409727242496428", "Refused to run: {reason}"),
    "reloaded": Kind("cbee28eaf2b34328bbbbd8f4a08ca48b", "Configuration reloaded: {changed}"),
    "reload_failed": Kind(
        "2493d1ad0093481d8bf0417cd1a816d2", "Configuration not reloaded, the old one holds: {error}"
    ),
    "restart_needed": Kind(
        "86b045e2052d46efa248ce908a8969e4", "Changed, but in force only after a restart: {keys}"
    ),
    "clock_stepped": Kind(
        "5603a4b22c1e4de48080c4024681c7a5",
        "The wall clock was set: it is {offset_ms} ms ahead of the queue's time",
    ),
    # The disk
    "storage_failed": Kind("0dcc0defff7f4e2fb450335fd6966dc5", "The disk failed: {error}"),
    "storage_full": Kind(
        "e68a1b60f95f4cc9ac3bb4436e59ffa0", "The disk is full: jobs are refused and none is started"
    ),
    "storage_has_room": Kind("cfdbc66ecaa14977b282b71d0d774731", "The disk has room again"),
    "snapshot_taken": Kind("5effa93f15a14fbc8b7b28f06cbdccf5", "Snapshot taken: {file}"),
    "snapshot_failed": Kind(
        "e9fa8208e7ac40358729ff4a166482e3", "Snapshot failed; the journal grows until one succeeds"
    ),
    "snapshot_not_started": Kind(
        "c08436530aea48fd9591375732ec3472", "Snapshot not started: {error}"
    ),
    # Jobs
    "job_enqueued_for": Kind(
        "dff8c0c14f454808979f0fd44ddead72", "Job {id}: enqueued for {user} by {by}, queue {queue}"
    ),
    "run_started": Kind(
        "5d8f6db109e9491c9e4962b47d73b298",
        "Job {id}: attempt {attempt} started, queue {queue}, slot {slot}",
    ),
    "run_ended": Kind("796119022d2d4fe190561baaae244fea", _run_ended),
    "stop_requested": Kind(
        "20d2031259ff41bbabc04a37a02d88c4", "Job {id}: attempt {attempt} is to stop: {why}"
    ),
    "job_moved": Kind("6505af7edc3448c89fdb67af644629ec", "Job {id} is {state}"),
    "job_forgotten": Kind("d3d54532ae3d44b29811deda51b703bf", "Job {id} has left the history"),
    "runs_summed": Kind("4780366fd32645a796a9a62abf2f116e", _runs_summed),
    "failures_summed": Kind(
        "7e75126044b54874b33b5f28710f4c36",
        "{dead} more jobs died and {lost} more attempts were lost in the last second",
    ),
    "output_dropped": Kind(
        "619f8cd524db4432a171fa07f95b7483",
        "Job {id}: {dropped_bytes} bytes of output dropped from the middle, attempt {attempt}",
    ),
    "output_not_forwarded": Kind(
        "7d7751ae9fb94277a572891fa64568bd",
        "Job {id}: {skipped_bytes} bytes of output are only in its file, attempt {attempt}",
    ),
    "outputs_not_forwarded": Kind(
        "21d76e8cc1c64759b535f9f86c04b2ce",
        "{skipped_bytes} bytes of output of {count} more attempts are only in their files",
    ),
    "output_limit_not_kept": Kind(
        "7c77329637c549f2affdb1ad4c570077",
        "The file system cannot drop the middle of a file, so output_limit is not kept: {error}",
    ),
    "stray_output_deleted": Kind(
        "0e7dde7a3a3e495a85105e8a0ae19b59", "Deleted output of job {id}, which is forgotten"
    ),
    # Tokens
    "token_made": Kind("36063140ec7642099a2e48ae9ea31107", _token_made),
    "token_forgotten": Kind("d7cbfcda6d1b4397b2d510fd4af9e60b", _token_forgotten),
    "token_refused": Kind(
        "1e434a77d32149ad85e72623a7d5b934",
        "Tokens that are not valid were refused: {count}, the last from uid {uid}",
    ),
    # The runner
    "runner_started": Kind("7cac1ea149cb4ab6b5d1b1f5489c50f9", "Started a runner, pid {pid}"),
    "runner_not_started": Kind(
        "f813a588b17446cdb4e93a8dd251fe18", "The runner could not be started: {error}"
    ),
    "runner_ended": Kind(
        "e7facc1867e54bf88083ff1406a20017", "The runner, pid {pid}, ended with {exit_code}"
    ),
    "runner_gone": Kind(
        "861dceba69b449fab15cffdc4bdf0f87",
        "The runner, pid {pid}, is gone: nothing is started until there is one again",
    ),
    "runner_hung_up": Kind(
        "f5a1f9a3d133401cb4d0678bf6050699",
        "The runner speaks version {speaks}, this daemon {ours}: restart the older one",
    ),
    "runner_unreachable": Kind(
        "49466eed7e5f4f508ed86869f0e113ec", "The runner cannot be reached: {error}"
    ),
    "runner_not_stopped": Kind(
        "b0ae630b49af499a82cabc3888df1589", "The runner did not leave: {error}"
    ),
    "runner_not_understood": Kind(
        "bb391f5356514f19b7977291d8988cda", "The runner is not understood: {error}"
    ),
    "start_refused_twice": Kind(
        "c9c529feea824bda9d61353268510928",
        "Job {id}: the runner refused a second start of attempt {attempt}",
    ),
}
