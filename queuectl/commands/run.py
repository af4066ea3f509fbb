"""
`run`: enqueue, follow the output, exit as the job does.

A command in the foreground that fails should say so at once, so `run` retries only if asked to.
"""

from queuectl.commands.enqueue import (
    JOB_OPTIONS,
    document_fields,
    job_environment,
    json_operand,
    option_fields,
    what_runs,
)
from queuectl.errors import (
    EXIT_DONE,
    EXIT_NOTHING,
    DaemonUnreachable,
    UsageError,
    exit_code,
)
from queuectl.following import Follower, say_why_waiting
from queuectl.jobspec import make_spec
from queuectl.options import Arguments, Command, Option
from queuectl.session import Session
from queuectl.views import JobView


def run(session: Session, arguments: Arguments) -> int:
    """
    Run one job to its end and return its exit code.
    """
    if session.structured or session.quiet:
        raise UsageError("run: prints the job's output, in no other form; see enqueue and wait")
    options = option_fields(session, arguments)
    options.update(what_runs(arguments))
    document = json_operand(arguments)
    fields = {"max_retries": 0} | ({} if document is None else document_fields(session, document))
    spec = make_spec(fields, options)
    with session.connect() as client:
        identifier = client.enqueue([spec], env=job_environment(session, arguments)).ids[0]
        assert identifier is not None
        goes_on = f"job {identifier} goes on: {session.again(f'logs -f {identifier}')}"
        follower = Follower(session, client, identifier, attempt=1)
        try:
            say_why_waiting(session, client, identifier, attempt=1)
            job = follower.follow()
        except KeyboardInterrupt:
            session.complain(f"detached; {goes_on}")
            return exit_code("interrupted")
        except DaemonUnreachable as error:
            session.complain(f"{error}; {goes_on}")
            return exit_code(error.code)
        finally:
            follower.client.close()
    return job_exit_code(session, job)


def job_exit_code(session: Session, job: JobView) -> int:
    """
    Return the exit code that passes on how *job* ended; say what that was if it did not complete.
    """
    if job.state == "completed":
        return EXIT_DONE
    reason = f": {job.last_error}" if job.last_error else ""
    session.complain(f"job {job.id} is {job.state}{reason}")
    if job.signal is not None:
        return 128 + job.signal
    return job.exit_code or EXIT_NOTHING


COMMANDS = (
    Command(
        ("run",),
        "run a command through the queue, show its output, exit as it does",
        run,
        operands="COMMAND | JSON | --script FILE [-- ARGS...] | -- ARGV...",
        operands_max=None,
        takes_argv=True,
        options=(
            Option("command", "the shell command", value="COMMAND", short="c"),
            Option("script", "run the text of FILE", value="FILE"),
            *JOB_OPTIONS,
        ),
        details=(
            "The exit code is the job's; 128 and the signal's number if a signal ended it; 1 if\n"
            "there is none. Ctrl-C leaves the job running and says how to come back. Failures are\n"
            "not retried unless --max-retries says so."
        ),
        examples=("queuectl run -- make -j2", "queuectl run --queue heavy 'make && make install'"),
    ),
)
