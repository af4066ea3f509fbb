"""
The settings: their names, kinds, defaults and limits, in one table.

Both ends use it. The client turns text into values and values into text; the daemon checks what it
is sent. A setting's value lives in the daemon's journal, takes effect at once and survives
restarts. A job that does not say follows the setting, whatever it is when it matters: a changed
`max_retries` holds for the next failure of every such job.

Values on the wire and in the journal: spans are integer milliseconds, sizes integer bytes.
"""

from typing import Literal, NamedTuple

from queuectl.protocol import RETRIES_MAX, SPAN_MS_MAX, WORKERS_MAX
from queuectl.views import ON_LOST, SettingValue

Kind = Literal["count", "span", "size", "factor", "choice", "list"]

DAY_MS = 86_400_000
# Weights are shown on one line of a table.
WEIGHTS_CHARS_MAX = 4_096


class Setting(NamedTuple):
    """
    One setting. `optional` allows None, written `none`.
    """

    key: str
    kind: Kind
    default: SettingValue
    minimum: float
    maximum: float
    help: str
    optional: bool = False
    aliases: tuple[str, ...] = ()


SETTINGS: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting("max_retries", "count", 3, 0, RETRIES_MAX, "retries after the first attempt"),
        Setting(
            "backoff_base",
            "factor",
            2,
            1,
            1000,
            "a failed job waits base ** attempts seconds before its next attempt",
            aliases=("base_backoff",),
        ),
        Setting("backoff_max", "span", 3_600_000, 0, SPAN_MS_MAX, "longest wait between attempts"),
        Setting(
            "backoff_jitter",
            "factor",
            0,
            0,
            1,
            "random part of the wait: 0.1 makes it up to 10 % longer",
        ),
        Setting(
            "job_timeout",
            "span",
            None,
            1,
            SPAN_MS_MAX,
            "longest an attempt may run",
            optional=True,
            aliases=("job_timeout_sec",),
        ),
        Setting(
            "kill_after",
            "span",
            10_000,
            0,
            SPAN_MS_MAX,
            "time between SIGTERM and SIGKILL when an attempt is cancelled or times out",
        ),
        Setting(
            "workers",
            "count",
            None,
            0,
            WORKERS_MAX,
            "slots at the start of the daemon; none means one per CPU",
            optional=True,
        ),
        Setting(
            "on_lost",
            "choice",
            "retry",
            0,
            0,
            "what becomes of a job whose end nobody saw: retry, dead or hold",
        ),
        Setting("retention", "span", 7 * DAY_MS, 0, SPAN_MS_MAX, "how long finished jobs are kept"),
        Setting(
            "retention_count", "count", 100_000, 0, 10_000_000, "how many finished jobs are kept"
        ),
        Setting(
            "output_limit",
            "size",
            256 << 20,
            64 << 10,
            1 << 50,
            "output kept of one attempt; beyond it the middle is dropped",
            optional=True,
        ),
        Setting(
            "user_weights",
            "list",
            None,
            1,
            100,
            "shares of the slots when users wait, alice=2,bob=3; who is not named has 1",
            optional=True,
        ),
        Setting(
            "user_running_max",
            "count",
            None,
            1,
            WORKERS_MAX,
            "jobs of one user that run at once",
            optional=True,
        ),
        Setting(
            "user_queued_max",
            "count",
            100_000,
            1,
            10_000_000,
            "jobs of one user that wait, run or are dead",
            optional=True,
        ),
        Setting(
            "user_bytes_max",
            "size",
            512 << 20,
            1 << 20,
            1 << 50,
            "memory for what one user's jobs say, finished ones included",
            optional=True,
        ),
        Setting(
            "user_connections_max",
            "count",
            64,
            1,
            512,  # as many as the daemon takes in all
            "connections of one user at once",
        ),
    )
}

_NAMES = {
    name: setting.key for setting in SETTINGS.values() for name in (setting.key, *setting.aliases)
}


def canonical(key: str) -> str | None:
    """
    Return the setting's own name for *key*, which may be an alias or kebab case; else None.
    """
    return _NAMES.get(key.replace("-", "_"))


def check(key: str, value: SettingValue) -> str | None:
    """
    Return the rule that *value* breaks as setting *key* (a canonical name), or None if it is fine.
    """
    setting = SETTINGS[key]
    if value is None:
        return None if setting.optional else "needs a value"
    if setting.kind == "list":
        try:
            parse_weights(str(value))
        except ValueError as error:
            return str(error)
        return None
    if setting.kind == "choice":
        return None if value in ON_LOST else f"must be one of {', '.join(ON_LOST)}"
    whole = setting.kind != "factor"
    if isinstance(value, str | bool) or (whole and not isinstance(value, int)):
        return "must be a whole number" if whole else "must be a number"
    if not setting.minimum <= value <= setting.maximum:  # Also false for NaN.
        return f"must be between {setting.minimum:g} and {setting.maximum:g}"
    return None


def parse_weights(text: str) -> dict[str, int]:
    """
    Return the weights of users: `alice=2,bob=3`. Raises ValueError, whose text is the rule.
    """
    setting = SETTINGS["user_weights"]
    weights: dict[str, int] = {}
    for pair in text.split(","):
        user, equals, digits = (part.strip() for part in pair.partition("="))
        if not user or not equals or len(user.split()) > 1 or user in weights:
            raise ValueError("must be users, each once, with their weights, like alice=2,bob=3")
        weight = int(digits) if digits.isdecimal() and len(digits) < 9 else 0
        if not setting.minimum <= weight <= setting.maximum:
            low, high = int(setting.minimum), int(setting.maximum)
            raise ValueError(f"must give each user a whole weight from {low} to {high}")
        weights[user] = weight
    if len(text) > WEIGHTS_CHARS_MAX:
        raise ValueError(f"must have at most {WEIGHTS_CHARS_MAX} characters")
    return weights
