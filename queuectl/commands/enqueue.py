"""
`enqueue`: from words, files and streams to jobs on disk.

The path of one plain command is kept short: what only files, scripts and tables need is imported
where it is needed.
"""

import os
from typing import Any

from queuectl.client import Client
from queuectl.environment import caller_environment
from queuectl.errors import EXIT_DONE, UsageError
from queuectl.jobspec import decode_json, fields_of, fields_of_options, make_spec
from queuectl.options import Arguments, Command, Option
from queuectl.protocol import HOME, Enqueued, JobSpec
from queuectl.session import Session
from queuectl.views import OUTPUTS, JobView

#: What a job may be given, as options. `run` takes them too.
JOB_OPTIONS = (
    Option("id", "the job's id; without it, the next number", value="ID"),
    Option("queue", "the queue to put it in (default: default)", value="NAME"),
    Option("priority", "larger runs sooner: an integer, or high, medium, low", value="N"),
    Option("max-retries", "retries after the first attempt", value="N", short="r"),
    Option("timeout", "longest an attempt may run", value="DURATION", short="t"),
    Option("kill-after", "from SIGTERM to SIGKILL at a timeout or cancel", value="DURATION"),
    Option("cwd", "working directory (default: this one); ~ is the home", value="DIR", short="w"),
    Option(
        "env",
        "set a variable; NAME alone passes on its value here",
        value="NAME=VALUE",
        short="e",
        repeat=True,
    ),
    Option("env-all", "pass on the whole environment"),
    Option(
        "on-lost",
        "what if nobody sees it end: retry, dead or hold",
        value="WHAT",
    ),
    Option("user", "whose job it is, if not yours: for root and queuectl-admin", value="NAME"),
    Option(
        "output",
        "where output goes: its file, or that and the system's journal",
        value="WHERE",
        choices=OUTPUTS,
    ),
)
# Jobs asked for at once where an answer had no room for all: even with the longest commands they
# fit into a frame.
_ASK_JOBS_MAX = 25
_FIELD_OPTIONS = ("id", "queue", "priority", "max-retries", "timeout", "kill-after", "cwd")
_OTHER_OPTIONS = ("run-at", "delay", "on-lost", "user", "output")


def enqueue(session: Session, arguments: Arguments) -> int:
    """
    Make one job, or those of a file, and print their ids.
    """
    if arguments.flag("partial") and not arguments.flag("file"):
        raise UsageError("--partial: goes with -f FILE")
    if arguments.flag("file"):
        from queuectl.commands.batch import enqueue_file

        return enqueue_file(session, arguments)
    options = option_fields(session, arguments)
    options.update(what_runs(arguments))
    document = json_operand(arguments)
    fields = {} if document is None else document_fields(session, document)
    return send(session, arguments, make_spec(fields, options))


def send(session: Session, arguments: Arguments, spec: JobSpec) -> int:
    """
    Enqueue one job and print its id, or with `--json` all about it.
    """
    with session.connect() as client:
        answer = client.enqueue(
            [spec], env=job_environment(session, arguments), want_jobs=session.structured
        )
        jobs = made_jobs(client, answer) if session.structured else []
    if session.structured:
        from queuectl.documents import job_document

        session.print_json(job_document(jobs[0]))
    else:
        session.print(str(answer.ids[0]))
    return EXIT_DONE


def made_jobs(client: Client, answer: Enqueued) -> list[JobView]:
    """
    Return the jobs that an enqueue made and was asked to tell of.

    A daemon leaves them out of an answer that would be too long for a frame.
    """
    if answer.jobs:
        return answer.jobs
    from queuectl.protocol import Jobs, List

    ids = [each for each in answer.ids if each is not None]
    return [
        job
        for start in range(0, len(ids), _ASK_JOBS_MAX)
        for job in client.call(List(ids=ids[start : start + _ASK_JOBS_MAX]), Jobs).jobs
    ]


def document_fields(session: Session, document: object) -> dict[str, Any]:
    """
    Return the JobSpec attributes that a decoded JSON object gives. Raises UsageError.
    """
    fields = fields_of(document, session.now)
    if isinstance(document, dict):
        _check_directory(session, "cwd", document.get("cwd"))
    return fields


def option_fields(session: Session, arguments: Arguments) -> dict[str, Any]:
    """
    Return the JobSpec attributes that the options give. Raises UsageError.
    """
    _check_directory(session, "--cwd", arguments.value("cwd"))
    given: dict[str, object] = {
        name: arguments.value(name)
        for name in (*_FIELD_OPTIONS, *_OTHER_OPTIONS)
        if arguments.flag(name)
    }
    if arguments.flag("env"):
        given["env"] = dict(_variable(each) for each in arguments.values("env"))
    if arguments.flag("hold"):
        given["hold"] = True
    return fields_of_options(given, session.now) if given else {}


def what_runs(arguments: Arguments) -> dict[str, Any]:
    """
    Return the attributes that say what runs, as far as options and operands do. Raises UsageError.
    """
    if arguments.flag("script"):
        from queuectl.commands.batch import script_fields

        return script_fields(arguments)
    ways = arguments.flag("command") + (arguments.argv is not None) + bool(arguments.operands)
    if ways > 1:
        raise UsageError("give the command once: a string, --command, or -- ARGV")
    if arguments.flag("command"):
        return fields_of_options({"command": arguments.value("command")}, 0)
    if arguments.argv is not None:
        if not arguments.argv:
            raise UsageError("nothing follows --: give the program and its arguments")
        return fields_of_options({"argv": arguments.argv}, 0)
    if len(arguments.operands) > 1:
        words = " ".join(arguments.operands)
        raise UsageError(
            f"one string is a shell command, several are not: quote it, or write -- {words}"
        )
    if not arguments.operands:
        raise UsageError("nothing to run: give a command, a JSON object, -f FILE or -- ARGV")
    if is_json(arguments.operands[0]):
        return {}
    return fields_of_options({"command": arguments.operands[0]}, 0)


def is_json(operand: str) -> bool:
    """
    Return whether the operand is a JSON object rather than a shell command.
    """
    # To a shell, `{` opens a group only when a blank follows: `{ make; }`. Everything else that
    # begins with it is meant to be JSON, also when it is misspelt.
    text = operand.lstrip()
    if not text.startswith("{"):
        return False
    return text[1:2] not in (" ", "\t", "\n") or text[1:].lstrip()[:1] in ('"', "}", "")


def json_operand(arguments: Arguments) -> object:
    """
    Return the JSON object that is the operand; None if there is none. Raises UsageError.
    """
    if not arguments.operands or not is_json(arguments.operands[0]):
        return None
    document: object = decode_json(arguments.operands[0])
    return document


def job_environment(session: Session, arguments: Arguments) -> dict[str, str] | None:
    """
    Return what jobs take over from this process's environment; None for what they do as a rule.
    """
    if not arguments.flag("env-all"):
        return None
    session.refuse_host("--env-all", "variables of this machine mean nothing on another; see --env")
    return caller_environment(os.environ, everything=True)


def _check_directory(session: Session, shown: str, path: object) -> None:
    """
    Refuse a directory that is relative to this one, where the job runs on another machine.
    """
    if session.host is None or not isinstance(path, str) or not path.strip():
        return
    if not (path.startswith(("/", "~/")) or path == HOME):
        raise UsageError(
            f"{shown}: must be absolute, or begin with ~ for the account's home, with --host; "
            f"got {path!a}"
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if equals:
        return name, value
    if name not in os.environ:
        raise UsageError(f"--env: {name!a} is not set here; write NAME=VALUE")
    return name, os.environ[name]


COMMANDS = (
    Command(
        ("enqueue",),
        "put a command into the queue",
        enqueue,
        operands="COMMAND | JSON | -f FILE | --script FILE [-- ARGS...] | -- ARGV...",
        operands_max=None,
        takes_argv=True,
        options=(
            Option("command", "the shell command", value="COMMAND", short="c"),
            Option(
                "file",
                "jobs of a file: a JSON object, an array, or one object per line; - is stdin",
                value="FILE",
                short="f",
            ),
            Option(
                "script",
                "store the text of FILE and run it, by its #! line or else by sh",
                value="FILE",
            ),
            *JOB_OPTIONS,
            Option("run-at", "start it then, not before", value="TIME"),
            Option("delay", "start it after this long", value="DURATION", short="d"),
            Option("hold", "let it wait for `queuectl release`"),
            Option("partial", "with -f: make the jobs that can be made, say what of the others"),
        ),
        details=(
            "Prints the job's id when the job is on disk. One string is run by /bin/sh -c; what\n"
            "follows -- is run as it is. Jobs get the current directory and, of the environment,\n"
            "PATH HOME USER LANG LC_* TZ SHELL TERM XDG_RUNTIME_DIR. Options beat JSON fields.\n"
            "A file is enqueued whole or not at all."
        ),
        examples=(
            'queuectl enqueue "tar cz /srv/site | gpg -e -r me > site.tgz.gpg"',
            'queuectl enqueue \'{"id": "job1", "command": "sleep 2"}\' --priority high',
            "queuectl enqueue --delay 1h30m --max-retries 5 -- rsync -a src/ host:dst/",
            "queuectl enqueue -f jobs.json",
        ),
    ),
)
