"""
Settings as people write them: `90s`, `256M`, `3`, `none`. Pure.
"""

import math

from queuectl.durations import format_duration, parse_duration
from queuectl.settings import SETTINGS, Setting, check
from queuectl.sizes import format_size, parse_size
from queuectl.views import SettingValue


def parse_setting(setting: Setting, text: str) -> SettingValue:
    """
    Return the value of *setting* that *text* means. Raises ValueError, whose text is the key, the
    rule and what was given.
    """
    text = text.strip()
    value: SettingValue
    if setting.optional and text.lower() == "none":
        return None
    try:
        if setting.kind == "span":
            value = parse_duration(text)
        elif setting.kind == "size":
            value = parse_size(text)
        elif setting.kind in ("choice", "list"):
            value = text
        else:
            value = _number(text, whole=setting.kind == "count")
    except ValueError as error:
        none = ", or none" if setting.optional else ""
        raise ValueError(f"{setting.key}: {error}{none}; got {text!a}") from error
    rule = check(setting.key, value)
    if rule is not None:
        raise ValueError(f"{setting.key}: {_in_words(setting, rule)}; got {text!a}")
    return value


def convert_setting(setting: Setting, value: object) -> SettingValue:
    """
    Return the value of *setting* that a JSON document gives: as documents.py shows it, or as text.
    Raises ValueError, as parse_setting() does.
    """
    if isinstance(value, str):
        return parse_setting(setting, value)
    if value is None and setting.optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{setting.key}: must be a number or a text; got {value!a}"[:200])
    # A number in JSON is a number, however it is written: 3.0 is 3.
    number = value * 1000 if setting.kind == "span" else value
    if (
        setting.kind != "factor"
        and math.isfinite(number)
        and (setting.kind == "span" or number == round(number))
    ):
        number = round(number)
    rule = check(setting.key, number)
    if rule is not None:
        raise ValueError(f"{setting.key}: {_in_words(setting, rule)}; got {value}")
    return number


def format_setting(key: str, value: SettingValue) -> str:
    """
    Return a setting's value as parse_setting() reads it: `1h`, `256M`, `3`, `none`.
    """
    kind = SETTINGS[key].kind if key in SETTINGS else None
    if value is None:
        return "none"
    if kind == "span" and isinstance(value, int):
        return format_duration(value)
    if kind == "size" and isinstance(value, int):
        return format_size(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_words(setting: Setting, rule: str) -> str:
    if setting.kind not in ("span", "size"):
        return rule
    limits = (setting.minimum, setting.maximum)
    least, most = (format_setting(setting.key, int(each)) for each in limits)
    return f"must be between {least} and {most}"


def _number(text: str, *, whole: bool) -> int | float:
    try:
        if whole or text.lstrip("+-").isdigit():
            return int(text)
        return float(text)
    except ValueError:
        raise ValueError("must be a whole number" if whole else "must be a number") from None
