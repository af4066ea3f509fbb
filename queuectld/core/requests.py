"""
What each request does: one function each, found by the request's type.

Each checks first and raises Refusal before it changed anything, then records, then replies. Those
that stream or wait leave the answer to the runtime.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from queuectl.editing import Edit
from queuectl.measures import GetHistory
from queuectl.protocol import (
    LIST_JOBS_MAX,
    SEARCH_CHARS_MAX,
    WORKERS_MAX,
    Act,
    Config,
    DeleteQueue,
    Done,
    Enqueue,
    Enqueued,
    GetConfig,
    Jobs,
    JobSpec,
    List,
    ListQueues,
    ListWorkers,
    LogEnd,
    Logs,
    Refused,
    SetConfig,
    SetQueue,
    Show,
    Shutdown,
    StartWorkers,
    StopWorkers,
    Wait,
    Waited,
    Workers,
)
from queuectl.settings import canonical, check
from queuectl.tokens import CreateToken, ListTokens, RevokeToken
from queuectl.views import FINISHED_STATES, JobError
from queuectl.watching import Watch
from queuectld.core import measuring, named_queues, selection, token_requests, views
from queuectld.core.actions import act, edit
from queuectld.core.admission import (
    admit,
    check_batch,
    check_bytes,
    check_queued,
    check_stored,
    env_bytes,
    excerpt,
    shorten,
)
from queuectld.core.effects import AwaitJobs, Reply, StopDaemon, StreamLogs
from queuectld.core.owners import Environments, environments_of, owner_of
from queuectld.core.peer import Owner
from queuectld.core.records import JobEnqueued, SettingsChanged, Stored, store
from queuectld.core.refusal import Refusal
from queuectld.core.watching import watch

if TYPE_CHECKING:
    from queuectld.core.queue import Queue

_NO_NAMES: frozenset[str] = frozenset()


def answer(queue: "Queue", client: int, request: Any, now: int) -> None:
    """
    Do what a request asks for. Raises Refusal, having changed nothing.
    """
    if not queue.peer.admin and type(request) in ADMINS_ONLY:
        raise Refusal("denied", "this is for root and members of the group queuectl-admin")
    HANDLERS[type(request)](queue, client, request, now)


def refused(call: int, refusal: Refusal) -> Refused:
    """
    Return the response that a refusal becomes.
    """
    return Refused(
        call=call,
        code=refusal.code,
        message=refusal.message,
        field=refusal.field,
        index=refusal.index,
    )


# --- enqueue ------------------------------------------------------------------------------------


def _enqueue(queue: "Queue", client: int, request: Enqueue, now: int) -> None:
    state = queue.state
    before = state.made_by(request.request_id, queue.peer.uid) if request.request_id else None
    if before is not None:
        queue.do(Reply(client, _enqueued_before(queue, request, before)))
        return
    if queue.storage_full:
        raise Refusal("try_later", "the disk of the journal is full; make room, then try again")
    check_batch(state, request)
    if not queue.peer.admin:
        check_queued(state, queue.peer, len(request.jobs))
        check_bytes(state, queue.peer)
    environments = environments_of(state, queue.peer, request.env)
    new_queues: set[str] = set()
    made, ids, errors = _admit_all(queue, request, environments, new_queues, now)
    new_environments = environments.new
    if new_environments:
        used = {record.env_id for record, _ in made}
        new_environments = [each for each in new_environments if each.env_id in used]
    if len(made) > 1:  # The limits of one job's fields, together, are below this one.
        check_stored([*map(store, new_environments), *(stored for _, stored in made)])
    for environment in new_environments:
        queue.record(environment)
    if new_queues:
        named_queues.make(queue, new_queues)
    for record, stored in made:
        queue.record(record, stored)
    jobs = []
    if request.want_jobs:
        made_jobs = [state.jobs[record.number] for record, _ in made]
        jobs = [views.job_view(queue, job, queue.peer) for job in made_jobs]
    response = Enqueued(call=request.call, ids=ids, errors=errors, jobs=jobs, durable=queue.durable)
    queue.do(Reply(client, response))


def _admit_all(
    queue: "Queue",
    request: Enqueue,
    environments: Environments,
    new_queues: set[str],
    now: int,
) -> tuple[list[tuple[JobEnqueued, Stored]], list[str | None], list[JobError]]:
    """
    Return the records of the jobs that may be made, what the submitter is to call each job, and,
    for a partial batch, why the others may not; these are called None. Adds to *new_queues* the
    queues that are to be made for them.

    Each job is checked against the state and against the jobs of the batch before it.
    """
    made: list[tuple[JobEnqueued, Stored]] = []
    ids: list[str | None] = []
    errors: list[JobError] = []
    batch_names = _NO_NAMES
    if len(request.jobs) > 1:
        batch_names = frozenset(spec.id for spec in request.jobs if spec.id is not None)
    names: set[tuple[int | None, str]] = set()
    state = queue.state
    queues = state.queues
    number = state.next_number
    own = Owner(queue.peer)
    shared_env_bytes = 0  # Counted when the first job comes that has variables of its own.
    for index, spec in enumerate(request.jobs):
        try:
            owner = own if spec.user is None else owner_of(queue.peer, queue.host, spec.user)
            if state.by_name or batch_names:  # Else no number was given as an id.
                number = _free_number(queue, owner, spec, number, batch_names)
            if spec.id is not None and (owner.peer.uid, spec.id) in names:
                raise Refusal("conflict", f"id {shorten(spec.id)} is twice here", "id")
            if spec.env and not shared_env_bytes:
                shared_env_bytes = env_bytes(environments.env)
            env_id = environments.own_id if owner.home is None else environments.id_for(owner)
            record = admit(queue, owner, request, index, number, env_id, shared_env_bytes, now)
            named = queues.get(record.queue)
            if named is None or not named.listed:
                named_queues.check_new(queue, record.queue, new_queues)
        except Refusal as refusal:
            if not request.partial:
                refusal.index = index if len(request.jobs) > 1 else None
                raise
            errors.append(_job_error(refusal, spec.id, index))
            ids.append(None)
            continue
        if spec.id is not None:
            names.add((owner.peer.uid, spec.id))
        made.append((record, store(record)))
        ids.append(_id_told(queue, record.uid, spec.id, number))
        number += 1
    return made, ids, errors


def _free_number(
    queue: "Queue", owner: Owner, spec: JobSpec, number: int, batch_names: frozenset[str]
) -> int:
    """
    Return the first number from *number* on that, as an id, means no other job to those who are
    told it.
    """
    if spec.id is not None and owner.home is None:
        return number  # It is known by its id.
    is_named = queue.state.is_named
    while (
        (batch_names and str(number) in batch_names)
        or is_named(owner.peer.uid, number)
        or (owner.home is not None and is_named(queue.peer.uid, number))
    ):
        number += 1
    return number


def _id_told(queue: "Queue", uid: int | None, name: str | None, number: int) -> str:
    """
    Return what the submitter is to call a job by: names are each account's own.
    """
    return name if name is not None and queue.peer.uid == uid else str(number)


def _job_error(refusal: Refusal, job_id: str | None, index: int | None = None) -> JobError:
    return JobError(
        code=refusal.code,
        message=refusal.message,
        id=None if job_id is None else excerpt(job_id),
        index=index,
        field=refusal.field,
    )


def _enqueued_before(queue: "Queue", request: Enqueue, made: list[tuple[int, int]]) -> Enqueued:
    """
    Return the answer to a request that is sent again: the jobs of the first time.
    """
    state = queue.state
    ids: list[str | None] = [None] * len(request.jobs)
    jobs = []
    for index, number in made:
        job = state.jobs.get(number)
        if index < len(ids):
            spec = request.jobs[index]
            uid = job.owner if job is not None else None if spec.user else queue.peer.uid
            ids[index] = _id_told(queue, uid, spec.id, number)
        if job is not None and request.want_jobs:
            jobs.append(views.job_view(queue, job, queue.peer))
    errors = [
        JobError(
            code="conflict",
            message="not made when this request was sent before, or forgotten since",
            id=None if (given := request.jobs[index].id) is None else excerpt(given),
            index=index,
        )
        for index, job_id in enumerate(ids)
        if job_id is None
    ]
    return Enqueued(
        call=request.call,
        ids=ids,
        errors=errors,
        jobs=jobs,
        existing=True,
        durable=queue.durable,
    )


# --- looking ------------------------------------------------------------------------------------


def _list(queue: "Queue", client: int, request: List, now: int) -> None:
    state = queue.state
    if request.ids:
        jobs, errors = selection.pick(state, queue.peer, request.ids)
        if errors:
            raise Refusal("not_found", errors[0].message, "id")
        if len(jobs) > LIST_JOBS_MAX:
            raise Refusal(
                "usage", f"ids must name at most {LIST_JOBS_MAX} jobs, not {len(jobs)}", "ids"
            )
        following = None
    else:
        before = request.before_number
        if before is None and request.after is not None:
            before = selection.one(state, queue.peer, request.after).number
        if request.search is not None and len(request.search) > SEARCH_CHARS_MAX:
            raise Refusal(
                "usage", f"search must have at most {SEARCH_CHARS_MAX} characters", "search"
            )
        jobs, following = selection.page(state, queue.peer, request, before)
    response = Jobs(
        call=request.call,
        jobs=[views.job_view(queue, job, queue.peer) for job in jobs],
        next_before=following,
    )
    queue.do(Reply(client, response))


def _show(queue: "Queue", client: int, request: Show, now: int) -> None:
    job = selection.one(queue.state, queue.peer, request.id)
    queue.do(Reply(client, views.detail(queue, job, queue.peer, request.call)))


def _logs(queue: "Queue", client: int, request: Logs, now: int) -> None:
    job = selection.one(queue.state, queue.peer, request.id)
    if request.attempt is not None:
        known = any(run.attempt == request.attempt for run in job.runs or ())
        next_one = request.attempt == job.attempt + 1 and job.state not in FINISHED_STATES
        if not known and not (request.follow and next_one):
            raise Refusal(
                "not_found",
                f"job {excerpt(queue.state.spec(job).id)} has no attempt {request.attempt}; "
                f"it has made {job.attempt}",
                "attempt",
            )
    elif not job.attempt and (not request.follow or job.state in FINISHED_STATES):
        response = LogEnd(call=request.call, job=views.job_view(queue, job, queue.peer))
        queue.do(Reply(client, response))
        return
    attempt = request.attempt or max(job.attempt, 1)
    only = request.attempt is not None
    queue.do(StreamLogs(client, job.number, attempt, only, request, queue.peer))


def _wait(queue: "Queue", client: int, request: Wait, now: int) -> None:
    jobs, errors = selection.pick(queue.state, queue.peer, request.ids)
    if errors and not request.skip_missing:
        raise Refusal("not_found", errors[0].message, "id")
    numbers = [job.number for job in jobs]
    waiting = [job.number for job in jobs if job.state not in FINISHED_STATES]
    if not waiting or (request.any and len(waiting) < len(numbers)):
        finished = [job for job in jobs if job.state in FINISHED_STATES]
        response = Waited(
            call=request.call, jobs=[views.job_view(queue, job, queue.peer) for job in finished]
        )
        queue.do(Reply(client, response))
    else:
        queue.do(AwaitJobs(client, request.call, numbers, waiting, request.any, queue.peer))


# --- workers, settings, the daemon --------------------------------------------------------------


def _workers(queue: "Queue", call: int, now: int, added: list[int]) -> Workers:
    workers = views.worker_views(queue, now, queue.peer)
    draining_count = sum(worker.state == "draining" for worker in workers)
    return Workers(call=call, workers=workers, added=added, draining_count=draining_count)


def _list_workers(queue: "Queue", client: int, request: ListWorkers, now: int) -> None:
    queue.do(Reply(client, _workers(queue, request.call, now, [])))


def _start_workers(queue: "Queue", client: int, request: StartWorkers, now: int) -> None:
    slots = queue.state.slots
    before = slots.numbers()
    count = request.count
    if count is None:
        count = 1 if before else max(queue.workers_setting(), 1)
    if not 1 <= count <= WORKERS_MAX - len(before):
        raise Refusal(
            "usage",
            f"count must be at least 1, and there are at most {WORKERS_MAX} workers in all",
            "count",
        )
    added = slots.free_numbers(count)
    queue.set_slots([*before, *added], now, by_hand=True)
    queue.do(Reply(client, _workers(queue, request.call, now, added)))


def _stop_workers(queue: "Queue", client: int, request: StopWorkers, now: int) -> None:
    queue.set_slots([], now, by_hand=True)
    if request.cancel_running:
        for number in queue.state.members["processing"]:
            job = queue.state.jobs[number]
            if job.stop is None or job.stop.why != "cancelled":
                queue.stop(job, "cancelled", now)
    queue.do(Reply(client, _workers(queue, request.call, now, [])))


def _get_config(queue: "Queue", client: int, request: GetConfig, now: int) -> None:
    queue.do(Reply(client, Config(call=request.call, settings=views.setting_views(queue))))


def _set_config(queue: "Queue", client: int, request: SetConfig, now: int) -> None:
    key = canonical(request.key)
    if key is None:
        raise Refusal("usage", f"no setting {shorten(request.key)}; queuectl config list", "key")
    values = dict(queue.state.settings)
    if request.unset:
        values.pop(key, None)
    else:
        rule = check(key, request.value)
        if rule is not None:
            raise Refusal("usage", f"{key} {rule}", key)
        values[key] = request.value
    if values != queue.state.settings:
        queue.record(SettingsChanged(values))
    if key == "workers":
        queue.set_slots(range(1, queue.workers_setting() + 1), now, by_hand=False)
    response = Config(call=request.call, settings=views.setting_views(queue), durable=queue.durable)
    queue.do(Reply(client, response))


def _shutdown(queue: "Queue", client: int, request: Shutdown, now: int) -> None:
    queue.do(Reply(client, Done(call=request.call)))
    queue.do(StopDaemon())


#: What changes the queue for everybody.
ADMINS_ONLY = frozenset({StartWorkers, StopWorkers, SetConfig, SetQueue, DeleteQueue, Shutdown})

HANDLERS: dict[type, Callable[["Queue", int, Any, int], None]] = {
    Enqueue: _enqueue,
    List: _list,
    Show: _show,
    Logs: _logs,
    Act: act,
    Edit: edit,
    Wait: _wait,
    Watch: watch,
    StartWorkers: _start_workers,
    StopWorkers: _stop_workers,
    ListWorkers: _list_workers,
    GetConfig: _get_config,
    SetConfig: _set_config,
    ListQueues: named_queues.show,
    SetQueue: named_queues.change,
    DeleteQueue: named_queues.delete,
    GetHistory: measuring.show_history,
    CreateToken: token_requests.create,
    ListTokens: token_requests.show,
    RevokeToken: token_requests.revoke,
    Shutdown: _shutdown,
}
