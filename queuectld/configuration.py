"""
What files, environment and options say about the daemon.

Later sources win: queuectld.toml, conf.d in the order of names, the environment, the options. A
source gives values under keys; keys are the settings of queuectl/settings.py and the daemon's own
in OWN. The settings can also be set in the journal (`queuectl config set`), and that wins over all
of this: no program rewrites an administrator's file, and no file undoes what was set by hand.

Nothing is guessed. An unknown key, a value that breaks its rule, a file that cannot be read: every
fault of every source is collected, with file, line and key, and there is no configuration.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from queuectl.errors import suggestion
from queuectl.setting_text import format_setting, parse_setting
from queuectl.settings import SETTINGS, canonical
from queuectl.views import SettingValue

SYSTEM_DIR = "/etc/queuectl"
FILE_STEM = "queuectld"
PREFIX = "QUEUECTL_"


class Key(NamedTuple):
    """
    A key of the daemon's own. `live`: a reload changes it; others need a restart.
    """

    key: str
    kind: Literal["path", "choice"]
    default: str | None
    help: str
    choices: tuple[str, ...] = ()
    live: bool = False


OWN: dict[str, Key] = {
    each.key: each
    for each in (
        Key("state_dir", "path", None, "where jobs, output and journal are kept"),
        Key("socket", "path", None, "where to listen, unless a socket was passed by systemd"),
        Key(
            "runner_dir",
            "path",
            None,
            "where a runner that somebody else starts is found; the daemon then starts none",
        ),
        Key(
            "durability",
            "choice",
            "always",
            "what a confirmation means",
            choices=("always", "interval", "off"),
        ),
        Key(
            "log_level",
            "choice",
            "info",
            "what is logged: this and what is graver",
            choices=("debug", "info", "warning", "error"),
            live=True,
        ),
    )
}


class ConfigurationError(Exception):
    """
    There is no configuration. `faults`, one line each, say why.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Configuration:
    """
    The values that were given, and where each comes from.
    """

    def __init__(self) -> None:
        self.values: dict[str, SettingValue] = {}
        #: Key -> "file PATH", "environment NAME" or "option NAME".
        self.sources: dict[str, str] = {}

    def path(self, key: str) -> str | None:
        """
        Return a path of the daemon's own, if it was given.
        """
        value = self.values.get(key, OWN[key].default)
        return None if value is None else str(value)

    def choice(self, key: str) -> str:
        """
        Return a choice of the daemon's own.
        """
        return str(self.values.get(key, OWN[key].default))

    def settings(self) -> tuple[dict[str, SettingValue], dict[str, str]]:
        """
        Return the settings among the values, and their sources.
        """
        values = {key: value for key, value in self.values.items() if key in SETTINGS}
        return values, {key: self.sources[key] for key in values}

    def changed_from(self, before: "Configuration") -> list[str]:
        """
        Return the keys whose values differ.
        """
        keys = sorted(self.values.keys() | before.values.keys())
        missing = object()
        return [
            key for key in keys if self.values.get(key, missing) != before.values.get(key, missing)
        ]

    def lines(self) -> list[str]:
        """
        Return every value as a line of TOML, with its source.
        """
        lines = []
        for key in sorted(self.values):
            value = self.values[key]
            bare = isinstance(value, int | float) and SETTINGS[key].kind in ("count", "factor")
            text = str(value) if bare else json.dumps(format_setting(key, value))
            lines.append(f"{key} = {text}  # {self.sources[key]}")
        return lines


def configuration_dir(*, system: bool) -> str | None:
    """
    Return where the files are looked for; None without a home.
    """
    if system:
        return SYSTEM_DIR
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        home = os.path.expanduser("~")
        if not home.startswith("/"):
            return None
        base = os.path.join(home, ".config")
    return os.path.join(base, "queuectl")


def load(
    directory: str | None, environment: Mapping[str, str], options: Iterable[tuple[str, str, str]]
) -> Configuration:
    """
    Return what all sources say. *options*: (name as typed, key, value). Raises ConfigurationError.
    """
    loader = _Loader()
    for path in loader.files(directory) if directory is not None else ():
        loader.file(path)
    for key in (*SETTINGS, *OWN):
        name = PREFIX + key.upper()
        if environment.get(name):
            loader.give(key, environment[name], f"environment {name}", name)
    for name, key, value in options:
        loader.give(key, value, f"option {name}", name)
    if loader.faults:
        raise ConfigurationError(loader.faults)
    return loader.result


class _Loader:
    """
    Takes values one by one and collects the faults.
    """

    def __init__(self) -> None:
        self.result = Configuration()
        self.faults: list[str] = []

    def files(self, directory: str) -> list[str]:
        """
        Return the files that are there, in the order in which they are read.
        """
        stem = os.path.join(directory, FILE_STEM)
        main = [path for path in (f"{stem}.toml", f"{stem}.json") if os.path.lexists(path)]
        if len(main) > 1:
            self.faults.append(f"{main[0]} and {main[1]} are both there: keep one")
        more_dir = os.path.join(directory, "conf.d")
        try:
            names = sorted(os.listdir(more_dir))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError as error:
            self.faults.append(f"{more_dir}: {error.strerror}")
            names = []
        ours = [name for name in names if name.endswith((".toml", ".json")) and name[0] != "."]
        return main + [os.path.join(more_dir, name) for name in ours]

    def file(self, path: str) -> None:
        """
        Take what a file says.
        """
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            table = _parse(path, text)
        except OSError as error:
            self.faults.append(f"{path}: {error.strerror}")
            return
        except ValueError as error:  # Of either parser, and of text that is not UTF-8.
            self.faults.append(f"{path}: {error}")
            return
        seen: dict[str, str] = {}
        for name, value in table.items():
            where = f"{path}:{_line_of(name, text)}"
            key = self.give(name, value, f"file {path}", where)
            if key is not None and key in seen:
                self.faults.append(f"{where}: {name}: given already, as {seen[key]}")
            elif key is not None:
                seen[key] = name

    def give(self, name: str, value: Any, source: str, where: str) -> str | None:
        """
        Take one value, or a fault. Returns the key's own name if it is known.
        """
        underscored = name.replace("-", "_")
        key = underscored if underscored in OWN else canonical(name)
        if key is None:
            hint = suggestion(underscored, [*SETTINGS, *OWN])
            self.faults.append(f"{where}: unknown key {name[:200]!a}{hint}")
            return None
        try:
            text = _as_text(key, value)
            if key in SETTINGS:
                parsed = parse_setting(SETTINGS[key], text)
            else:
                parsed = _own_value(OWN[key], text, absolute=source.startswith("file"))
        except ValueError as error:
            self.faults.append(f"{where}: {error}")
            return key
        self.result.values[key] = parsed
        self.result.sources[key] = source
        return key


def _parse(path: str, text: str) -> dict[str, Any]:
    if path.endswith(".toml"):
        return tomllib.loads(text)
    table = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(table, dict):
        raise ValueError("must be an object of keys and values")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:200]}: given twice")
    return table


def _line_of(name: str, text: str) -> int:
    """
    Return the line on which a key of either format is given: neither parser tells.
    """
    quoted = re.escape(name)
    at = re.search(rf"""^[\s{{,]*(?:\[+\s*)?["']?{quoted}["']?\s*[=:.\]]""", text, re.MULTILINE)
    if at is None:
        at = re.search(quoted, text)
    return 1 if at is None else text.count("\n", 0, at.end()) + 1


def _as_text(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "a table" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise ValueError(f"{key}: must be a string or a number, not {kind}")
    return str(value)


def _own_value(own: Key, text: str, *, absolute: bool) -> str:
    if own.kind == "choice":
        if text not in own.choices:
            choices = ", ".join(own.choices)
            hint = suggestion(text, own.choices)
            raise ValueError(f"{own.key}: must be one of {choices}; got {text[:200]!a}{hint}")
        return text
    if not text or "\0" in text:
        raise ValueError(f"{own.key}: must be a path; got {text[:200]!a}")
    if absolute and not text.startswith("/"):
        raise ValueError(f"{own.key}: must be an absolute path; got {text[:200]!a}")
    return os.path.abspath(text)
