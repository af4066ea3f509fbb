"""
What a new job must be like: every rule on the fields of a JobSpec.

A broken rule is a Refusal that names the field, the rule and what would be right. Input is echoed
in part only.
"""

from typing import TYPE_CHECKING

from queuectl.protocol import (
    BATCH_JOBS_MAX,
    COMMAND_BYTES_MAX,
    DEFAULT_QUEUE,
    ENV_BYTES_MAX,
    HOME,
    ID_CHARS_MAX,
    JOB_BYTES_MAX,
    PRIORITY_MAX,
    RETRIES_MAX,
    SPAN_MS_MAX,
    Enqueue,
    JobSpec,
)
from queuectl.views import JobState, OutputTo
from queuectld.core.host import Host
from queuectld.core.peer import Owner, Peer
from queuectld.core.records import JobEnqueued, Stored
from queuectld.core.refusal import Refusal
from queuectld.core.state import State

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

# Jobs that one daemon keeps, finished ones included: about 5 GB of memory.
JOBS_MAX = 10_000_000
# Input repeated in an error message: enough to know it again.
ECHO_CHARS_MAX = 60
ECHO_BYTES_MAX = 200
# Accounts that the jobs of one batch may name: each is looked up while everybody waits.
ACCOUNTS_MAX = 100
# The records of one batch, which go to the journal in one piece: under the 8 MiB that it takes at
# once, with room for what else gathers meanwhile. What the jobs share on the wire, like the working
# directory, is spelled out in each record; variables are in records of their own.
BATCH_RECORDS_BYTES_MAX = 6 << 20


def shorten(text: str) -> str:
    """
    Return input for an error message, quoted, without control characters, not all of it.
    """
    kept, mark = text[:ECHO_CHARS_MAX], "…"
    # A character may need ten for its escape.
    while len((quoted := repr(kept + mark)).encode()) > ECHO_BYTES_MAX:
        kept = kept[: len(kept) * 3 // 4]
    return repr(text) if kept == text else quoted


def excerpt(text: str) -> str:
    """
    Return the beginning of *text* for an error message: as much of it as ECHO_BYTES_MAX allow.
    """
    kept = text[:ECHO_BYTES_MAX]
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in kept)
    if kept == text and len(shown.encode()) <= ECHO_BYTES_MAX:
        return shown
    cut = shown.encode()[: ECHO_BYTES_MAX - len("…".encode())]
    return cut.decode(errors="ignore") + "…"


def malformed(error: Exception) -> str:
    """
    Return what is told of a request whose bytes are not what they should be.
    """
    return f"the request is malformed: {excerpt(str(error))}"


def check_name(text: str, field: str) -> None:
    """
    Refuse what cannot be the name of a queue or the id of a job.
    """
    rule = None
    if not text:
        rule = "must not be empty"
    elif len(text) > ID_CHARS_MAX:
        rule = f"must have at most {ID_CHARS_MAX} characters"
    elif not text.isprintable() or any(c.isspace() or c in ",/'\"\\" for c in text):
        rule = "must be printable, without spaces, commas, slashes and quotes"
    elif text.startswith("-"):
        rule = "must not begin with a dash"
    elif text in (".", ".."):  # Steps in a path: no URL can name it.
        rule = "must not be . or .."
    if rule:
        raise Refusal("usage", f"{field} {rule}, like job-1; got {shorten(text)}", field)


def _check_id(state: State, peer: Peer, text: str) -> None:
    check_name(text, "id")
    first, dash, last = text.partition("-")
    if text == "last" or (dash and first.isdecimal() and last.isdecimal()):
        raise Refusal(
            "usage",
            f"id must not read like a selector (last, 1-3), like job-1; got {shorten(text)}",
            "id",
        )
    taken = state.find(text, peer.uid)
    if taken is not None and peer.owns(taken) and state.spec(taken).id == text:
        raise Refusal(
            "conflict",
            f"id {shorten(text)} is taken by a {taken.state} job; "
            "choose another, or leave it out to get a number",
            "id",
        )


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _check_text(field: str, text: str, bytes_max: int) -> None:
    if "\0" in text:
        raise Refusal("usage", f"{field} must not contain a NUL character", field)
    # A character takes at most 4 bytes, so there is seldom anything to be weighed.
    if len(text) * 4 > bytes_max and (size := _size_bytes(text)) > bytes_max:
        raise Refusal("usage", f"{field} must have at most {bytes_max} bytes, not {size}", field)


def _check_command(spec: JobSpec) -> None:
    if spec.command is not None:
        if spec.script is not None or spec.argv is not None:
            raise _ways_refusal("has more than one of")
        if not spec.command.strip():
            raise Refusal("usage", "command must not be empty, for example: echo hi", "command")
        _check_text("command", spec.command, COMMAND_BYTES_MAX)
        return
    if spec.script is not None:
        if not spec.script:
            raise Refusal("usage", "script must not be empty", "script")
        _check_text("script", spec.script, JOB_BYTES_MAX)
        _check_text("script_name", spec.script_name or "", 4096)
    elif spec.argv is None:
        raise _ways_refusal("needs")
    elif not spec.argv or not spec.argv[0]:
        raise Refusal("usage", 'argv must name a program, for example ["make", "-j2"]', "argv")
    if spec.argv is not None:
        for each in spec.argv:
            _check_text("argv", each, COMMAND_BYTES_MAX)
        if sum(map(_size_bytes, [*spec.argv, spec.script or ""])) > JOB_BYTES_MAX:
            raise Refusal(
                "usage", f"argv, with a script, must have at most {JOB_BYTES_MAX} bytes", "argv"
            )


def _ways_refusal(what: str) -> Refusal:
    message = f"a job {what} command, argv or script; give exactly one"
    return Refusal("usage", message, "command")


def check_batch(state: State, request: Enqueue) -> None:
    """
    Refuse a request that is too large, or for which there is no room, as a whole.
    """
    count = len(request.jobs)
    if not count:
        raise Refusal("usage", "jobs must not be empty", "jobs")
    if count > BATCH_JOBS_MAX:
        raise Refusal("usage", f"a batch has at most {BATCH_JOBS_MAX} jobs, not {count}", "jobs")
    if count > ACCOUNTS_MAX and len({spec.user for spec in request.jobs}) > ACCOUNTS_MAX:
        raise Refusal(
            "usage", f"a batch has jobs of at most {ACCOUNTS_MAX} accounts; split it", "user"
        )
    if len(request.request_id) > ID_CHARS_MAX:
        raise Refusal(
            "usage", f"request_id must have at most {ID_CHARS_MAX} characters", "request_id"
        )
    if len(state.jobs) + count > JOBS_MAX:
        raise Refusal(
            "try_later",
            f"there are {len(state.jobs)} jobs of at most {JOBS_MAX}; "
            "forget finished ones: queuectl prune --older-than 1d",
            "jobs",
        )


def check_queued(state: State, peer: Peer, count: int) -> None:
    """
    Refuse a member more jobs that wait, run or are dead than the settings grant. Dead ones count
    because nothing but the member forgets them.
    """
    limit = state.setting("user_queued_max")
    if limit is None:
        return
    share = state.shares.by_owner.get(peer.uid)
    kept = share.kept if share is not None else 0
    if kept + count > limit:
        raise Refusal(
            "try_later",
            f"user {peer.user} has {kept} jobs that wait, run or are dead; {count} more "
            f"would be more than {limit} (user_queued_max); wait until some have ended, "
            "or cancel or purge some",
            "jobs",
        )


def check_bytes(state: State, peer: Peer) -> None:
    """
    Refuse a member who keeps more in memory than the settings grant. The request that goes beyond
    is still taken, so that nothing has to be encoded to be weighed.
    """
    limit = state.setting("user_bytes_max")
    if limit is None:
        return
    share = state.shares.by_owner.get(peer.uid)
    if share is not None and share.size_bytes >= limit:
        raise Refusal(
            "try_later",
            f"user {peer.user} has jobs of {share.size_bytes} bytes, of at most {limit} "
            "(user_bytes_max); forget finished ones: queuectl prune",
            "jobs",
        )


def check_stored(stored: list[Stored]) -> None:
    """
    Refuse a batch that the journal could not take in one piece: jobs, and what they share.
    """
    if sum(len(each.body) for each in stored) > BATCH_RECORDS_BYTES_MAX:
        raise Refusal(
            "usage",
            f"the jobs of a batch must have at most {BATCH_RECORDS_BYTES_MAX} bytes in all; "
            "split it",
            "jobs",
        )


def env_bytes(env: dict[str, str]) -> int:
    """
    Return what these variables take in the environment of a process.
    """
    return sum(_size_bytes(name) + 1 + _size_bytes(value) for name, value in env.items())


def check_env(env: dict[str, str], below_bytes: int = 0) -> None:
    """
    Refuse variables that execve(2) could not pass on, or too many on top of *below_bytes*.
    """
    size = below_bytes
    for name, value in env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise Refusal(
                "usage",
                f"env must be NAME=VALUE without NUL and with a name; got {shorten(name)}",
                "env",
            )
        variable_bytes = _size_bytes(name) + 1 + _size_bytes(value)
        if variable_bytes > COMMAND_BYTES_MAX:
            raise Refusal(
                "usage",
                f"env variable {shorten(name)} must have at most {COMMAND_BYTES_MAX} bytes, "
                f"not {variable_bytes}",
                "env",
            )
        size += variable_bytes
    if size > ENV_BYTES_MAX:
        raise Refusal("usage", f"env must have at most {ENV_BYTES_MAX} bytes, not {size}", "env")


def _check_range(field: str, value: int, low: int, high: int, unit: str = "") -> None:
    if not low <= value <= high:
        raise Refusal("usage", f"{field} must be between {low} and {high}{unit}", field)


def check_priority(peer: Peer, priority: int) -> None:
    """
    Refuse a priority that is no priority, or before others' where that is not the peer's to have.
    """
    _check_range("priority", priority, -PRIORITY_MAX, PRIORITY_MAX)
    if priority > 0 and not peer.admin:
        raise Refusal(
            "denied",
            "priority above 0 is for root and members of the group queuectl-admin; "
            "leave it out or give one of at most 0",
            "priority",
        )


def _check_journal(host: Host) -> None:
    if not host.has_journal:
        rule = "output journal needs the system's journal, which does not listen here"
        raise Refusal("usage", rule, "output")


def _due_at(spec: JobSpec, now: int, wall_offset_ms: int) -> int:
    """
    Return when a job is due that says so, 0 if that is now. Raises Refusal.
    """
    if spec.delay_ms is not None:
        _check_range("delay", spec.delay_ms, 0, SPAN_MS_MAX, " ms")
        if spec.run_at is not None:
            raise Refusal("usage", "run_at and delay exclude each other; give one", "run_at")
        due_at = now + spec.delay_ms
    else:
        assert spec.run_at is not None
        if not 0 <= spec.run_at <= now + SPAN_MS_MAX:
            raise Refusal("usage", "run_at must be a time within the next ten years", "run_at")
        due_at = spec.run_at - wall_offset_ms
    return due_at if due_at > now else 0


def _directory(spec: JobSpec, owner: Owner, request: Enqueue) -> str:
    """
    Return where a job begins: another account need not be able to enter the submitter's directory.
    """
    cwd = spec.cwd
    if cwd is None:
        cwd = request.cwd if owner.home is None else owner.home
    if not (cwd.startswith(("/", "~/")) or cwd == HOME):
        rule = f"cwd must be an absolute path, or begin with {HOME} for the account's home"
        raise Refusal("usage", f"{rule}, not {shorten(cwd)}", "cwd")
    _check_text("cwd", cwd, 4095)
    return cwd


def admit(
    queue: "Queue",
    owner: Owner,
    request: Enqueue,
    index: int,
    number: int,
    env_id: int,
    shared_env_bytes: int,
    now: int,
) -> JobEnqueued:
    """
    Return the record that makes the request's job *index* with this number. Raises Refusal. That
    its named queue may be made is for the caller to see to.
    """
    spec = request.jobs[index]
    peer = queue.peer
    _check_command(spec)
    if spec.id is not None:
        _check_id(queue.state, owner.peer, spec.id)
    if spec.priority:
        check_priority(peer, spec.priority)
    if spec.max_retries is not None:
        _check_range("max_retries", spec.max_retries, 0, RETRIES_MAX)
    if spec.timeout_ms is not None:
        _check_range("timeout", spec.timeout_ms, 1, SPAN_MS_MAX, " ms")
    if spec.kill_after_ms is not None:
        _check_range("kill_after", spec.kill_after_ms, 0, SPAN_MS_MAX, " ms")
    due_at = 0
    if spec.delay_ms is not None or spec.run_at is not None:
        due_at = _due_at(spec, now, queue.wall_offset_ms)
    output: OutputTo | None = None
    if spec.output == "journal":
        _check_journal(queue.host)
        output = "journal"
    if spec.env:
        check_env(spec.env, shared_env_bytes)
    state: JobState = "held" if spec.hold else "scheduled" if due_at else "pending"
    by_uid = by_user = None
    if owner.home is not None:
        by_uid, by_user = peer.uid, peer.user
    # In the order of the fields: by name, so many take longer than all the checks above.
    return JobEnqueued(
        number,
        now,
        state,
        due_at,
        DEFAULT_QUEUE if spec.queue is None else spec.queue,
        spec.priority,
        env_id,
        _directory(spec, owner, request),
        request.umask & 0o777,
        spec.id,
        spec.command,
        spec.argv,
        spec.script,
        spec.script_name,
        spec.max_retries,
        spec.timeout_ms,
        spec.kill_after_ms,
        spec.run_at,
        spec.on_lost,
        spec.env or None,
        request.request_id or None,
        index,
        owner.peer.uid,
        owner.peer.user or None,
        by_uid,
        by_user,
        output,
    )
