"""
`config`: the daemon's settings, which take effect at once and survive restarts.
"""

from queuectl.documents import encode_json, setting_document, setting_value
from queuectl.errors import EXIT_DONE, UsageError, suggestion
from queuectl.options import Arguments, Command
from queuectl.protocol import Config, GetConfig, SetConfig
from queuectl.session import Session
from queuectl.setting_text import format_setting, parse_setting
from queuectl.settings import SETTINGS, canonical
from queuectl.tables import print_table
from queuectl.views import SettingView


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
    try:
        value = parse_setting(SETTINGS[key], arguments.operands[1])
    except ValueError as error:
        raise UsageError(str(error)) from error
    return _set(session, SetConfig(key=key, value=value))


def unset(session: Session, arguments: Arguments) -> int:
    """
    Give a setting its default again and print that.
    """
    return _set(session, SetConfig(key=_key(arguments.operands[0]), unset=True))


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
