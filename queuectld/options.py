"""
The daemon's command line, and the configuration that it, the environment and files make.
"""

import argparse
from collections.abc import Mapping

from queuectl import __version__
from queuectld.configuration import OWN, Configuration, ConfigurationError, configuration_dir, load

SYSTEM_STATE_DIR = "/var/lib/queuectl"
SYSTEM_RUNNER_DIR = "/run/queuectl-runner"

#: Options that are keys: as typed, and the key.
_KEY_OPTIONS = {
    "--state-dir": "state_dir",
    "--socket": "socket",
    "--runner-dir": "runner_dir",
    "--durability": "durability",
    "--log-level": "log_level",
}


def parser() -> argparse.ArgumentParser:
    """
    Return the command line of the daemon.
    """
    each = argparse.ArgumentParser(
        prog="queuectld",
        description="The queue's daemon. Runs in the foreground until SIGTERM; jobs go on then.",
        allow_abbrev=False,
    )
    each.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where jobs, output and journal are kept "
        "(default: $QUEUECTL_STATE_DIR, else $XDG_STATE_HOME/queuectl)",
    )
    each.add_argument(
        "--socket",
        metavar="PATH",
        help="where to listen (default: $QUEUECTL_SOCKET, else $XDG_RUNTIME_DIR/queuectl/…)",
    )
    each.add_argument(
        "--system",
        action="store_true",
        help="serve the machine: files in /etc/queuectl, state in /var/lib/queuectl, and the "
        "runner in /run/queuectl-runner",
    )
    each.add_argument(
        "--ephemeral",
        action="store_true",
        help="keep the state in a folder that goes with the daemon, and its jobs too",
    )
    each.add_argument(
        "--runner-dir",
        metavar="DIR",
        help="find there a runner that somebody else starts (default: start one)",
    )
    each.add_argument(
        "--durability",
        choices=OWN["durability"].choices,
        help="always: on disk before it is confirmed; interval: within 50 ms; off: when the "
        "kernel likes (default: always)",
    )
    each.add_argument(
        "--log-level",
        choices=OWN["log_level"].choices,
        help="log this and what is graver (default: info)",
    )
    each.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="give a key of the configuration a value, as a file would; may be repeated",
    )
    each.add_argument(
        "--config-dir",
        metavar="DIR",
        help="where queuectld.toml and conf.d are looked for "
        "(default: $XDG_CONFIG_HOME/queuectl, else ~/.config/queuectl)",
    )
    each.add_argument(
        "--check-config", action="store_true", help="print the configuration or its faults, and end"
    )
    each.add_argument("--ready-fd", type=int, metavar="FD", help="say `ready` here when listening")
    each.add_argument("--version", action="version", version=f"queuectld {__version__}")
    return each


def configuration(options: argparse.Namespace, environment: Mapping[str, str]) -> Configuration:
    """
    Return what files, *environment* and *options* say. Raises ConfigurationError.
    """
    given = []
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError([f"--set needs KEY=VALUE; got {text[:200]!a}"])
        given.append(("--set", key.strip(), value))
    for name, key in _KEY_OPTIONS.items():
        value = getattr(options, key)
        if value is not None:
            given.append((name, key, value))
    directory = options.config_dir
    if directory is None:
        directory = configuration_dir(system=options.system)
    return load(directory, environment, given)
