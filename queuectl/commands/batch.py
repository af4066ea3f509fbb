"""
`enqueue` from files: scripts to store, and files and streams of many jobs.

A file is one request, made whole or not at all. With `--partial` it is sent in pieces, each of
which is answered before the next is read: what can be made is made, the rest is named by line.
"""

import os
from collections.abc import Iterator
from typing import Any

from queuectl.commands.enqueue import document_fields, job_environment, made_jobs, option_fields
from queuectl.documents import encode_json, error_document, job_document
from queuectl.errors import EXIT_DONE, RequestRefused, RequestTooLong, UsageError, exit_code
from queuectl.framing import FRAME_BYTES_MAX
from queuectl.jobspec import decode_json, fields_of_options, make_spec
from queuectl.options import Arguments
from queuectl.protocol import BATCH_JOBS_MAX, JOB_BYTES_MAX, Enqueued, JobSpec
from queuectl.session import Session
from queuectl.views import JobError

_PIECE_BYTES = 1 << 20
_PIECE_JOBS = 1_000

#: A job of a file: where it stands there (`line 3`), and its fields.
Placed = tuple[str, object]


def script_fields(arguments: Arguments) -> dict[str, Any]:
    """
    Return the attributes of a job that runs the text of a file. Raises UsageError, OSError.
    """
    path = arguments.value("script")
    assert path is not None
    if arguments.operands or arguments.flag("command"):
        raise UsageError("--script: its arguments go after --")
    with open(path, "rb") as file:
        data = file.read(JOB_BYTES_MAX + 1)
    if len(data) > JOB_BYTES_MAX:
        raise UsageError(f"--script: {path} is longer than the limit of {JOB_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"--script: {path} is no text in UTF-8") from None
    fields = fields_of_options({"argv": arguments.argv}, 0) if arguments.argv else {}
    return {**fields, "script": text, "script_name": os.path.basename(path)}


def enqueue_file(session: Session, arguments: Arguments) -> int:
    """
    Make the jobs of a file and print their ids.
    """
    if arguments.operands or arguments.argv is not None or arguments.flag("script"):
        raise UsageError("-f: the file says what runs; give nothing else to run")
    path = arguments.value("file")
    assert path is not None
    shown = "stdin" if path == "-" else path
    with open(os.dup(0) if path == "-" else path, "rb", buffering=0) as file:
        if arguments.flag("partial"):
            return _Pieces(session, arguments, shown).send_all(file.fileno())
        data = file.readall()
    return _enqueue_whole(session, arguments, shown, data)


def split_jobs(data: bytes, shown: str) -> tuple[list[Placed], bool]:
    """
    Return the jobs of a file with their places, and whether it is a single object.

    Raises UsageError.
    """
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{shown}: no job in it")
    if len(lines) > 1 and _is_whole(lines[0][1]):
        return [
            (f"{shown} line {number}: ", decode_json(line, f"{shown} line {number}: "))
            for number, line in lines
        ], False
    document = decode_json(data, f"{shown}: ")
    if isinstance(document, list):
        return [(f"{shown} job {number}: ", each) for number, each in enumerate(document, 1)], False
    return [(f"{shown}: ", document)], True


def _enqueue_whole(session: Session, arguments: Arguments, shown: str, data: bytes) -> int:
    jobs, single = split_jobs(data, shown)
    if len(jobs) > BATCH_JOBS_MAX:
        raise UsageError(
            f"{shown}: {len(jobs)} jobs, the limit of one batch is {BATCH_JOBS_MAX}: "
            "use --partial, which sends them in pieces"
        )
    options = option_fields(session, arguments)
    _refuse_shared_id(options, len(jobs))
    specs = []
    for place, document in jobs:
        try:
            specs.append(make_spec(document_fields(session, document), options))
        except UsageError as error:
            raise UsageError(f"{place}{error}") from error
    with session.connect() as client:
        try:
            answer = client.enqueue(
                specs, env=job_environment(session, arguments), want_jobs=session.structured
            )
        except RequestRefused as error:
            if error.index is None or single:
                raise
            place = jobs[error.index][0]
            raise RequestRefused(error.code, f"{place}{error}") from error
        except RequestTooLong as error:
            raise UsageError(f"{shown}: {error}: use --partial, which sends pieces") from error
        made = made_jobs(client, answer) if session.structured else []
    if single and session.structured:
        session.print_json(job_document(made[0]))
    elif session.structured:
        session.print_json_array(job_document(job) for job in made)
    else:
        session.print("\n".join(str(each) for each in answer.ids))
    return EXIT_DONE


class _Pieces:
    """
    A file sent in pieces: each whole line is a job of its own, good or bad.
    """

    def __init__(self, session: Session, arguments: Arguments, shown: str) -> None:
        self._session = session
        self._shown = shown
        self._env = job_environment(session, arguments)
        self._options = option_fields(session, arguments)
        _refuse_shared_id(self._options, 2)
        #: The exit code: that of the first job that could not be made.
        self._code = EXIT_DONE
        self._lead = "["

    def send_all(self, descriptor: int) -> int:
        with self._session.connect() as client:
            for piece in _read_pieces(descriptor):
                specs: list[tuple[int, JobSpec]] = []
                results: dict[int, object] = {}
                for number, line in piece:
                    try:
                        document = decode_json(line)
                        specs.append(
                            (
                                number,
                                make_spec(document_fields(self._session, document), self._options),
                            )
                        )
                    except UsageError as error:
                        results[number] = JobError(code="usage", message=str(error))
                if specs:
                    answer = client.enqueue(
                        [spec for _, spec in specs],
                        env=self._env,
                        partial=True,
                    )
                    results.update(_by_line([number for number, _ in specs], answer))
                for number in sorted(results):
                    self._report(number, results[number])
        if self._session.json:
            self._session.print("[]" if self._lead == "[" else "]")
        return self._code

    def _report(self, number: int, result: object) -> None:
        session = self._session
        if isinstance(result, JobError):
            self._code = self._code or exit_code(result.code)
            session.complain(f"{self._shown} line {number}: {result.message}")
            error = error_document(result)
            del error["index"]  # Within a piece: it means nothing to the reader.
            document: dict[str, Any] = {"line": number, "error": error}
        else:
            document = {"line": number, "id": result}
        if session.jsonl:
            session.print(encode_json(document))
        elif session.json:
            session.print(self._lead + encode_json(document))
            self._lead = ","
        elif "id" in document:
            session.print(str(result))


def _by_line(numbers: list[int], answer: Enqueued) -> dict[int, object]:
    errors = {error.index: error for error in answer.errors}
    return {
        number: errors.get(index, identifier)
        for index, (number, identifier) in enumerate(zip(numbers, answer.ids, strict=True))
    }


def _read_pieces(descriptor: int) -> Iterator[list[tuple[int, bytes]]]:
    # What a read(2) returns is a piece: a slow pipe's jobs are enqueued as they come.
    number = 0
    rest = b""
    while True:
        data = os.read(descriptor, _PIECE_BYTES)
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > FRAME_BYTES_MAX:
            raise UsageError(f"line {number + len(lines) + 1}: longer than {FRAME_BYTES_MAX} bytes")
        if not data and rest:
            lines, rest = [*lines, rest], b""
        numbered = [(number + index, line) for index, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
        for start in range(0, len(numbered), _PIECE_JOBS):
            yield numbered[start : start + _PIECE_JOBS]
        if not data:
            return


def _is_whole(line: bytes) -> bool:
    try:
        decode_json(line)
    except UsageError:
        return False
    return True


def _refuse_shared_id(options: dict[str, Any], count: int) -> None:
    if count > 1 and "id" in options:
        raise UsageError("--id: names one job, and the file holds several")
