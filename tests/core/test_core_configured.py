"""
Settings given from outside: beneath what was set, above the defaults, and never durable.
"""

from conversation import Conversation

from queuectl.protocol import Config, GetConfig
from queuectl.views import SettingView
from queuectld.core.events import Configured
from queuectld.core.records import SettingsChanged


def view(talk: Conversation, key: str) -> SettingView:
    response = talk.request(GetConfig())
    assert isinstance(response, Config)
    return next(each for each in response.settings if each.key == key)


def configure(talk: Conversation, **values: int) -> None:
    talk.handle(Configured(values, dict.fromkeys(values, "file /x")))


def test_given_settings_lie_between_default_and_set() -> None:
    """
    Default, given, set: each hides the one before, with its source, and unset uncovers it again.
    """
    talk = Conversation()
    seen = []
    for step in (
        lambda: None,
        lambda: configure(talk, max_retries=5),
        lambda: talk.set("max_retries", 9),
        lambda: configure(talk, max_retries=6),
        lambda: talk.set("max_retries", unset=True),
        lambda: configure(talk),
    ):
        step()
        found = view(talk, "max_retries")
        assert 3 == found.default
        seen.append((found.value, found.source))
    expected = [
        (3, "default"),
        (5, "file /x"),
        (9, "set"),
        (9, "set"),
        (6, "file /x"),
        (3, "default"),
    ]
    assert expected == seen


def test_given_settings_are_in_force() -> None:
    """
    A job that does not say follows them when it matters: its first failure is its last.
    """
    talk = Conversation()
    job_id = talk.enqueue()
    configure(talk, max_retries=0)
    talk.exit(job_id, 1)
    assert "dead" == talk.state(job_id)


def test_given_settings_are_no_records() -> None:
    """
    Nothing of them is remembered: they change no durable state, whatever they are.
    """
    talk = Conversation()
    before = dict(talk.queue.state.settings)
    records, _ = talk.queue.handle(Configured({"retention": 1}, {"retention": "file /x"}), talk.now)
    assert not [record for record in records if isinstance(record, SettingsChanged)]
    assert before == talk.queue.state.settings


def test_workers_follow_unless_changed_by_hand() -> None:
    """
    A given number of workers is in force at once; `worker start` and `config set` win over it.
    """
    talk = Conversation(workers=2)
    configure(talk, workers=4)
    assert [1, 2, 3, 4] == [number for number, _ in talk.slots()]
    configure(talk)
    assert talk.queue.cpu_count == len(talk.slots())
    talk.set("workers", 3)
    configure(talk, workers=5)
    assert 3 == len(talk.slots())
