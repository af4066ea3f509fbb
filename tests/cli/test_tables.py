"""
Lists of jobs and slots: as one's own, and as an admin sees those of others.
"""

from typing import Any

from queuectl.commands.workers import worker_rows
from queuectl.selection import job_to_ask
from queuectl.tables import job_rows
from queuectl.views import JobView, WorkerView
from queuectl.web.rendering import job_url, what_runs

NOW = 1_700_000_000_000


def job(**fields: Any) -> JobView:
    """
    Return alice's job 7, as she sees it.
    """
    shown: dict[str, Any] = {"id": "report", "command": "make", "cwd": "/home/alice"}
    return JobView(
        number=7,
        state="pending",
        attempts=0,
        max_retries=3,
        priority=0,
        queue="default",
        created_at=NOW,
        updated_at=NOW,
        user="alice",
        **(shown | fields),
    )


def slot(**fields: Any) -> WorkerView:
    """
    Return the slot that it is in, as she sees it.
    """
    shown: dict[str, Any] = {"job": "report", "number": 7, "user": "alice", "command": "make"}
    return WorkerView(slot=1, state="busy", started_at=NOW, uptime_ms=0, **(shown | fields))


#: The same, as admins see them.
OTHERS_JOB = job(command="(another account's)", cwd=None)
OTHERS_SLOT = slot(command=None)


def test_a_list_calls_each_job_what_it_can_be_asked_for() -> None:
    """
    One's own job goes by its id. Another's goes by its number, and then whose they are is shown.
    """
    header, rows = job_rows([job()], NOW)
    assert ("ID", "STATE", "TRIES", "PRI", "QUEUE", "WHEN", "COMMAND") == header
    assert "report" == rows[0][0]
    header, rows = job_rows([OTHERS_JOB, job()], NOW)
    assert ["7", "report"] == [row[0] for row in rows]
    assert ["alice", "alice"] == [row[header.index("USER")] for row in rows]


def test_slots_call_their_jobs_the_same() -> None:
    """
    By id or number; nothing where there is no job, or none that one may see.
    """
    assert ["report", "7", None] == [
        job_to_ask(each) for each in (slot(), OTHERS_SLOT, slot(job=None, number=None))
    ]
    _, (own, others) = worker_rows([slot(), OTHERS_SLOT], NOW)
    assert ("report", "make") == (own[3], own[-1])
    assert ("7", "(alice's)") == (others[3], others[-1])


def test_pages_link_to_jobs_by_the_same_names() -> None:
    """
    A link to another's job by its id would lead nowhere, or to one's own job of that id.
    """
    assert ["/jobs/report"] * 2 == [job_url(job()), job_url(slot())]
    assert ["/jobs/7"] * 2 == [job_url(OTHERS_JOB), job_url(OTHERS_SLOT)]
    assert ["/jobs/7"] * 2 == [job_url(job(id="..")), job_url(slot(job=".."))]


def test_pages_say_whose_a_job_is_where_they_may_not_say_what_it_runs() -> None:
    """
    In the place of the command.
    """
    assert ["make"] * 2 == [what_runs(job()), what_runs(slot())]
    assert ["(alice's)"] * 2 == [what_runs(OTHERS_JOB), what_runs(OTHERS_SLOT)]
    assert "" == what_runs(slot(job=None, number=None, user=None, command=None))
