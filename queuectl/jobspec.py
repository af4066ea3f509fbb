"""
From what people write about a job (fields of a JSON object, options) to a JobSpec.

Each field has one converter, used for both, so that `--timeout 5m` and `{"timeout": "5m"}` obey
the same rule and say the same when it is broken. Numbers may come as strings, because shells and
templates make them so. Options beat fields. The daemon checks again what it must rely on; here is
what only this side can say well: which word was wrong, and which would be right.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from queuectl.errors import UsageError, suggestion
from queuectl.protocol import HOME, PRIORITY_NAMES, SPAN_MS_MAX, JobSpec
from queuectl.views import ON_LOST, OUTPUTS

#: Fields of which one is enough: an option for one of them sets the others of the JSON aside.
#: Beyond any limit of the daemon, which says what that is; within what the wire can carry.
_WHOLE_MAX = (1 << 63) - 1
_WHAT_RUNS = ("command", "argv", "script")
_ALTERNATIVES = (_WHAT_RUNS, ("run_at", "delay_ms"))


def fields_of(document: object, now: int) -> dict[str, Any]:
    """
    Return the JobSpec attributes that a decoded JSON object gives. Raises UsageError.
    """
    if not isinstance(document, dict):
        raise UsageError(
            f'a job must be a JSON object such as {{"command": "make"}}; got {_show(document)}'
        )
    return _convert(document, "", now)


def fields_of_options(options: Mapping[str, object], now: int) -> dict[str, Any]:
    """
    Return the JobSpec attributes that command line options give. Raises UsageError.
    """
    return _convert(options, "--", now)


def make_spec(fields: Mapping[str, Any], options: Mapping[str, Any]) -> JobSpec:
    """
    Return the job of *fields* and *options*, both as returned above. Raises UsageError.
    """
    merged = _override(fields, options) if options else fields
    if "run_at" in merged and "delay_ms" in merged:
        raise UsageError("run_at and delay: give one of them")
    kinds = [name for name in _WHAT_RUNS if name in merged]
    if not kinds:
        raise UsageError('a job needs a command, for example {"command": "make"}, or an argv')
    if len(kinds) == 2 and kinds != ["argv", "script"]:
        raise UsageError(f"{kinds[0]} and {kinds[1]}: give one of them")
    return JobSpec(**merged)


def _override(fields: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for group in _ALTERNATIVES:
        if any(name in options for name in group):
            for name in group:
                merged.pop(name, None)
    env = {**fields.get("env", {}), **options.get("env", {})}
    merged.update(options)
    if env:
        merged["env"] = env
    return merged


def decode_json(text: bytes | str, place: str = "") -> Any:
    """
    Return the value of the JSON *text*, which stands at *place*. Raises UsageError that says where.
    """
    import msgspec.json

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        reason = str(error)
    except UnicodeError:
        raise UsageError(f"{place}not valid JSON: text that is not UTF-8") from None
    except RecursionError:
        raise UsageError(f"{place}not valid JSON: nested too deep") from None
    # The standard library's reader says line and column, and it is only a mistake that pays for it.
    import json

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        reason = (
            f"{error.msg[0].lower()}{error.msg[1:]} at line {error.lineno} column {error.colno}"
        )
    except ValueError as error:
        reason = str(error)
    raise UsageError(f"{place}not valid JSON: {reason}")


def _convert(given: Mapping[str, object], prefix: str, now: int) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, value in given.items():
        attribute, convert = _FIELDS.get(name.replace("-", "_"), (None, None))
        if attribute is None or convert is None:
            raise UsageError(f"unknown field {name!a}{suggestion(name, _FIELDS)}", name)
        if value is None:
            continue  # JSON's null: as if it were not there.
        if attribute in converted:
            raise UsageError(
                f"{prefix}{name}: says the same as another field; give one of them", name
            )
        try:
            converted[attribute] = convert(value, now)
        except ValueError as error:
            raise UsageError(f"{prefix}{name}: {error}; got {_show(value)}", name) from error
    return converted


def _show(value: object) -> str:
    shown = value if isinstance(value, int | float) else ascii(value)
    text = str(shown) if value is not None and not isinstance(value, bool) else f"{value}".lower()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _argument(value: object, _now: int) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return value


def _text(value: object, now: int) -> str:
    text = _argument(value, now)
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _argv(value: object, now: int) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of strings such as ["make", "-j2"]')
    return [_text(value[0], now), *(_argument(each, now) for each in value[1:])]


def _whole(value: object, rule: str) -> int:
    count = value if isinstance(value, int) and not isinstance(value, bool) else None
    try:
        if isinstance(value, str) and value.isascii() and "_" not in value:
            count = int(value)
    except ValueError:
        pass
    if count is None or abs(count) > _WHOLE_MAX:
        raise ValueError(rule)
    return count


def _retries(value: object, _now: int) -> int:
    rule = "must be a whole number of 0 or more"
    count = _whole(value, rule)
    if count < 0:
        raise ValueError(rule)
    return count


def _attempts(value: object, _now: int) -> int:
    rule = "must be a whole number of 1 or more"
    count = _whole(value, rule)
    if count < 1:
        raise ValueError(rule)
    return count - 1


def _priority(value: object, _now: int) -> int:
    if isinstance(value, str) and value in PRIORITY_NAMES:
        return PRIORITY_NAMES[value]
    return _whole(value, "must be a whole number, or high, medium or low")


def _span(value: object, _now: int) -> int:
    from queuectl.durations import parse_duration

    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        span_ms = value * 1000
    else:
        span_ms = parse_duration(value if isinstance(value, str) else "")
    if span_ms > SPAN_MS_MAX:
        raise ValueError("must be at most ten years")
    return round(span_ms)


def _timeout(value: object, now: int) -> int:
    span_ms = _span(value, now)
    if span_ms == 0:
        raise ValueError("must be longer than 0; leave it out for none")
    return span_ms


def _time(value: object, now: int) -> int:
    from queuectl.times import parse_time

    return parse_time(value if isinstance(value, str) else "", now)


def _directory(value: object, now: int) -> str:
    path = _text(value, now)
    if path.startswith(("/", "~/")) or path == HOME:
        return path
    from queuectl.environment import working_directory

    return os.path.normpath(os.path.join(working_directory(), path))


def _environment(value: object, now: int) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('must be an object of strings such as {"LANG": "C"}')
    for name, content in value.items():
        if not name or "=" in name:
            raise ValueError(f"{name!a} cannot be the name of a variable")
        _argument(name, now)
        try:
            _argument(content, now)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return value


def _on_lost(value: object, _now: int) -> str:
    if value not in ON_LOST:
        raise ValueError("must be retry, dead or hold")
    assert isinstance(value, str)
    return value


def _output(value: object, _now: int) -> str:
    if value not in OUTPUTS:
        raise ValueError("must be file or journal")
    assert isinstance(value, str)
    return value


def _flag(value: object, _now: int) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_Converter = Callable[[object, int], Any]

#: By name as written, in snake case: which attribute of JobSpec, and how to get its value.
_FIELDS: dict[str, tuple[str, _Converter]] = {
    "id": ("id", _text),
    "command": ("command", _text),
    "argv": ("argv", _argv),
    "queue": ("queue", _text),
    "priority": ("priority", _priority),
    "max_retries": ("max_retries", _retries),
    "max_attempts": ("max_retries", _attempts),
    "max_tries": ("max_retries", _attempts),
    "run_at": ("run_at", _time),
    "scheduled_at": ("run_at", _time),
    "delay": ("delay_ms", _span),
    "timeout": ("timeout_ms", _timeout),
    "kill_after": ("kill_after_ms", _span),
    "cwd": ("cwd", _directory),
    "env": ("env", _environment),
    "on_lost": ("on_lost", _on_lost),
    "hold": ("hold", _flag),
    "user": ("user", _text),
    "output": ("output", _output),
}
