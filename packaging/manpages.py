"""
The manual pages, from the definitions that the programs run by and the prose of docs/.

queuectl(1) and a page for each command or group of commands come from the command line's own
tables; queuectld(8) and queuectl-runner(8) from their parser and its help; queuectld.toml(5) from
the settings; queuectl-protocol(7) is docs/protocol.md. Nothing is written here twice.
"""

import argparse
import re
from datetime import date
from pathlib import Path

from roff import Page

from queuectl.cli import ALIASES, MODULES, load
from queuectl.commands.guide import usage
from queuectl.options import Command, Option
from queuectl.session import GLOBAL_OPTIONS
from queuectl.setting_text import format_setting
from queuectl.settings import SETTINGS, Setting
from queuectld.configuration import OWN
from queuectld.options import parser as daemon_parser
from queuectld.runner import main as runner_main

DOCS = Path(__file__).resolve().parent.parent / "docs"

USER_MANUAL, ADMIN_MANUAL = "User Commands", "System Administration"
FILE_MANUAL, OVERVIEW_MANUAL = "File Formats", "Overviews and Conventions"


class Writer:
    """
    Makes pages of one version and date.
    """

    def __init__(self, version: str, day: date) -> None:
        self._version, self._date = version, day.isoformat()

    def page(self, title: str, section: int, manual: str, purpose: str) -> Page:
        """
        Return a new page, with its NAME section.
        """
        page = Page(title, section, self._version, self._date, manual)
        page.name(title, purpose)
        return page

    def queuectl(self) -> Page:
        """
        Return the page of the program itself.
        """
        page = self.page("queuectl", 1, USER_MANUAL, "a durable queue for shell commands")
        page.section("Synopsis")
        page.paragraph("**queuectl** [OPTIONS] [COMMAND [ARGUMENTS...]]")
        page.section("Description")
        page.paragraph(
            "**queuectl enqueue** returns once the job is on disk. The daemon, queuectld(8), runs "
            "it when a worker is free, by priority, as often as its retries allow, keeps its "
            "output and its exit status, and puts it into the dead letter queue when it gives up. "
            "Running jobs outlive a restart, an upgrade or a crash of the daemon."
        )
        page.paragraph("Without a command it does what **queuectl status** does.")
        page.section("Commands")
        for name in MODULES:
            for command in commands_of(name):
                page.item(f"**queuectl {command.name}**", f"{sentence(command.summary)}")
        page.section("Short names")
        page.paragraph("; ".join(f"**{new}** is **{old}**" for new, old in ALIASES.items()) + ".")
        page.section("Options of every command")
        write_options(page, GLOBAL_OPTIONS)
        text = (DOCS / "commands.md").read_text()
        for heading in ("Rules that hold everywhere", "Environment variables"):
            page.section(heading)
            page.markdown_body(section_of(text, heading))
        see(page, [f"queuectl-{name}(1)" for name in MODULES if name != "help"])
        return page

    def command(self, name: str) -> Page:
        """
        Return the page of a command or of a group of commands.
        """
        commands = commands_of(name)
        single = len(commands) == 1
        purpose = commands[0].summary if single else f"queuectl's {name} commands"
        page = self.page(f"queuectl-{name}", 1, USER_MANUAL, purpose)
        page.section("Synopsis")
        for command in commands:
            page.paragraph(f"**queuectl {command.name}** {usage(command)[len(command.name) :]}")
        page.section("Description")
        for command in commands:
            if not single:
                page.subsection(f"queuectl {command.name}")
            page.paragraph(sentence(command.summary))
            if command.details:
                page.paragraph(command.details.replace("\n", " "))
            write_options(page, command.options)
            if command.examples:
                page.paragraph("Examples:")
                page.code(list(command.examples))
        page.section("Options of every command")
        page.paragraph("See queuectl(1): " + ", ".join(f"**--{o.name}**" for o in GLOBAL_OPTIONS))
        also = [f"queuectl-{new}(1)" for new in related(name)]
        see(page, ["queuectl(1)", "queuectld(8)", *also])
        return page

    def daemon(self) -> Page:
        """
        Return the page of the daemon.
        """
        parser = daemon_parser()
        page = self.page("queuectld", 8, ADMIN_MANUAL, "the daemon that owns the job queue")
        page.section("Synopsis")
        page.paragraph("**queuectld** [OPTIONS]")
        page.section("Description")
        page.paragraph(parser.description or "")
        page.section("Options")
        for action in parser._actions:  # noqa: SLF001  argparse has no other way to its options.
            if action.help != argparse.SUPPRESS:
                value = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
                if action.choices is not None:
                    value = f" {'|'.join(map(str, action.choices))}"
                names = ", ".join(f"**{name}**" for name in action.option_strings)
                page.item(names + value, (action.help or "") % {"default": action.default})
        text = (DOCS / "configuration.md").read_text()
        for heading in ("The daemon", "Durability", "Sockets", "State directory", "Output"):
            page.section("Operation" if heading == "The daemon" else heading)
            page.markdown_body(without_options(section_of(text, heading)))
        text = (DOCS / "systemd.md").read_text()
        page.section("Service units and running jobs")
        page.markdown_body(section_of(text, "What happens to running jobs"))
        see(page, ["queuectl(1)", "queuectl-runner(8)", "queuectld.toml(5)"])
        return page

    def runner(self) -> Page:
        """
        Return queuectl-runner(8), from the text that `--help` prints.
        """
        page = self.page("queuectl-runner", 8, ADMIN_MANUAL, "the parent of queuectld's jobs")
        first, *parts = (runner_main.__doc__ or "").strip().split("\n\n")
        page.section("Synopsis")
        page.paragraph(f"**queuectl-runner** {' '.join(first.split()[1:])}")
        page.section("Description")
        for part in parts:
            if re.match(r" +--", part):
                for option in re.split(r"\n +(?=--)", part.strip()):
                    head, _, text = option.partition("  ")
                    page.item(f"**{head}**", " ".join(text.split()))
            else:
                page.paragraph(" ".join(part.split()))
        see(page, ["queuectld(8)", "queuectl(1)"])
        return page

    def configuration(self) -> Page:
        """
        Return queuectld.toml(5).
        """
        page = self.page("queuectld.toml", 5, FILE_MANUAL, "configuration of queuectld")
        page.section("Synopsis")
        page.paragraph("/etc/queuectl/queuectld.toml, /etc/queuectl/conf.d/*.toml")
        page.paragraph("~/.config/queuectl/queuectld.toml")
        page.section("Description")
        page.markdown_body(section_of((DOCS / "configuration.md").read_text(), "Files"))
        page.section("Keys")
        for setting in SETTINGS.values():
            page.item(f"**{setting.key}**", describe_setting(setting))
        write_own_keys(page)
        page.section("Users")
        page.markdown_body(section_of((DOCS / "configuration.md").read_text(), "Users"))
        see(page, ["queuectld(8)", "queuectl-config(1)"])
        return page

    def protocol(self) -> Page:
        """
        Return queuectl-protocol(7).
        """
        purpose = "what crosses queuectld's control socket"
        page = self.page("queuectl-protocol", 7, OVERVIEW_MANUAL, purpose)
        page.markdown((DOCS / "protocol.md").read_text())
        see(page, ["queuectl(1)", "queuectld(8)"])
        return page


def pages(version: str, day: date) -> dict[str, str]:
    """
    Return the text of every page by its file's name.
    """
    writer = Writer(version, day)
    made = {"queuectl.1": writer.queuectl()}
    made |= {f"queuectl-{name}.1": writer.command(name) for name in MODULES}
    made |= {
        "queuectld.8": writer.daemon(),
        "queuectl-runner.8": writer.runner(),
        "queuectld.toml.5": writer.configuration(),
        "queuectl-protocol.7": writer.protocol(),
    }
    return {name: page.text() for name, page in made.items()}


def commands_of(name: str) -> list[Command]:
    """
    Return the commands that begin with the word *name*.
    """
    return [each for each in load(name) if each.words[0] == name]


def related(name: str) -> list[str]:
    """
    Return the commands that are defined in the same module.
    """
    return [other for other in MODULES if MODULES[other] == MODULES[name] and other != name]


def sentence(text: str) -> str:
    """
    Return a summary as a sentence.
    """
    return f"{text[:1].upper()}{text[1:]}."


def write_options(page: Page, options: tuple[Option, ...]) -> None:
    """
    Write what each option means.
    """
    for option in options:
        names = [f"**-{option.short}**"] if option.short else []
        names.append(f"**--{option.name}**")
        value = f" {option.value}" if option.value else ""
        choices = f": {', '.join(option.choices)}" if option.choices else ""
        page.item(", ".join(names) + value, option.help + choices)


def describe_setting(setting: Setting) -> str:
    """
    Return a setting's meaning, kind and default.
    """
    default = format_setting(setting.key, setting.default)
    return f"A {setting.kind}: {setting.help}. Default: {default}."


def write_own_keys(page: Page) -> None:
    """
    Write the daemon's own keys, which only files, environment and options give.
    """
    for own in OWN.values():
        choices = f" ({', '.join(own.choices)})" if own.choices else ""
        default = f" Default: {own.default}." if own.default else ""
        when = "" if own.live else " A change needs a restart."
        page.item(f"**{own.key}**", f"A {own.kind}: {own.help}{choices}.{default}{when}")


def see(page: Page, names: list[str]) -> None:
    """
    Write the last section.
    """
    page.section("See also")
    page.paragraph(", ".join(names))


def section_of(text: str, heading: str) -> str:
    """
    Return what is below a `##` of a document.
    """
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert found is not None, heading
    return found[1]


def without_options(text: str) -> str:
    """
    Return a section without its table of options, which the page has from the parser.
    """
    return re.sub(r"^\| option .*?(?=\n\n)", "", text, flags=re.MULTILINE | re.DOTALL)
