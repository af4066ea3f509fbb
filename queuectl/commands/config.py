"""
`config`: the daemon's settings, which take effect at once and survive restarts.
"""

from queuectl.documents import encode_json, setting_document, setting_value
from queuectl.durations import format_duration, parse_duration
from queuectl.errors import EXIT_DONE, UsageError, suggestion
from queuectl.options import Arguments, Command
from queuectl.protocol import Config, GetConfig, SetConfig
from queuectl.session import Session
from queuectl.settings import SETTINGS, Setting, canonical, check
from queuectl.sizes import format_size, parse_size
from queuectl.tables import print_table
from queuectl.views import SettingValue, SettingView


def list_settings(session: Session, _arguments: Arguments) -> int:
    """
    Print every setting.
    """
    with session.connect() as client:
        settings = client.call(GetConfig(), Config).settings
    if session.structured:
        session.print_json_array(setting_document(setting) for setting in settings)
    elif session.quiet:
        for setting in settings:
            session.print(setting.key)
    else:
        header = ("KEY", "VALUE", "SOURCE", "MEANING")
        print_table(session, header, [_row(setting) for setting in settings])
    return EXIT_DONE


def get(session: Session, arguments: Arguments) -> int:
    """
    Print one setting's value, or every setting.
    """
    if not arguments.operands:
        return list_settings(session, arguments)
    key = _key(arguments.operands[0])
    with session.connect() as client:
        settings = client.call(GetConfig(), Config).settings
    return _print_value(session, settings, key)


def change(session: Session, arguments: Arguments) -> int:
    """
    Change a setting and print its new value.
    """
    key = _key(arguments.operands[0])
    value = parse_setting(SETTINGS[key], arguments.operands[1])
    return _set(session, SetConfig(key=key, value=value))


def unset(session: Session, arguments: Arguments) -> int:
    """
    Give a setting its default again and print that.
    """
    return _set(session, SetConfig(key=_key(arguments.operands[0]), unset=True))


def parse_setting(setting: Setting, text: str) -> SettingValue:
    """
    Return the value of *setting* that *text* means. Raises UsageError.
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
        elif setting.kind == "choice":
            value = text
        else:
            value = _number(text, whole=setting.kind == "count")
    except ValueError as error:
        none = ", or none" if setting.optional else ""
        raise UsageError(f"{setting.key}: {error}{none}; got {text!a}") from error
    rule = check(setting.key, value)
    if rule is not None:
        if setting.kind in ("span", "size"):
            least, most = (format_setting(setting.key, int(each)) for each in _limits(setting))
            rule = f"must be between {least} and {most}"
        raise UsageError(f"{setting.key}: {rule}; got {text!a}")
    return value


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


def _limits(setting: Setting) -> tuple[float, float]:
    return setting.minimum, setting.maximum


def _number(text: str, *, whole: bool) -> int | float:
    try:
        if whole or text.lstrip("+-").isdigit():
            return int(text)
        return float(text)
    except ValueError:
        raise ValueError("must be a whole number" if whole else "must be a number") from None


def _key(text: str) -> str:
    key = canonical(text)
    if key is None:
        hint = suggestion(text.replace("-", "_"), SETTINGS)
        raise UsageError(f"unknown setting {text!a}{hint}; see `queuectl config list`")
    return key


def _set(session: Session, request: SetConfig) -> int:
    with session.connect() as client:
        settings = client.call(request, Config).settings
    if session.quiet:
        return EXIT_DONE
    return _print_value(session, settings, request.key, f"{request.key} = ")


def _print_value(session: Session, settings: list[SettingView], key: str, lead: str = "") -> int:
    for setting in settings:
        if setting.key == key:
            if session.structured:
                session.print(encode_json(setting_value(key, setting.value)))
            else:
                session.print(lead + format_setting(key, setting.value))
            return EXIT_DONE
    raise UsageError(f"the daemon has no setting {key}; it is older than this program")


def _row(setting: SettingView) -> tuple[str, ...]:
    known = SETTINGS.get(setting.key)
    return (
        setting.key,
        format_setting(setting.key, setting.value),
        setting.source,
        known.help if known else "",
    )


def _command(word: str, summary: str, operands: str = "", details: str = "") -> Command:
    functions = {
        "list": list_settings,
        "show": list_settings,
        "get": get,
        "set": change,
        "unset": unset,
    }
    count = len(operands.split())
    return Command(
        ("config", word),
        summary,
        functions[word],
        operands=operands,
        operands_min=0 if operands.startswith("[") else count,
        operands_max=count,
        details=details,
    )


COMMANDS = (
    _command("list", "list every setting"),
    _command("show", "the same as config list"),
    _command("get", "print a setting's value", "[KEY]"),
    _command(
        "set",
        "change a setting",
        "KEY VALUE",
        "Takes effect at once and survives restarts. Spans are written 90s, 15m or 1h30m, sizes\n"
        "64K, 256M or 1G. Keys may be written with - or _.",
    ),
    _command("unset", "give a setting its default again", "KEY"),
)
