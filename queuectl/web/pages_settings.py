"""
The daemon's settings: each with its meaning, where its value comes from, and a field to change it.

A value that breaks a rule comes back in its field, with the rule beside it.
"""

from starlette.requests import Request
from starlette.responses import Response

from queuectl.errors import RequestRefused, UsageError
from queuectl.protocol import Config, GetConfig, SetConfig
from queuectl.setting_text import format_setting, parse_setting
from queuectl.settings import SETTINGS
from queuectl.views import ON_LOST
from queuectl.web.pages_forms import Form, go, read_form
from queuectl.web.pages_rendering import Said, show
from queuectl.web.visitor import visitor_of


async def settings_page(request: Request) -> Response:
    """
    GET /settings.
    """
    return await _show(request, {}, {}, 200)


async def change_setting(request: Request) -> Response:
    """
    POST /settings: set one, or with the button `unset` go back to its default.
    """
    form = await read_form(request)
    key = form.text("key")
    if key not in SETTINGS:
        raise UsageError(f"no setting {key!a}")
    link = visitor_of(request).link
    try:
        config = await link.call(_change(form, key), Config)
    except (ValueError, RequestRefused) as error:
        rule = str(error).removeprefix(f"{key}: ")
        return await _show(request, {key: rule}, {key: form.text("value")}, 422)
    value = next((each.value for each in config.settings if each.key == key), None)
    return go(request, f"/settings#{key}", Said(f"{key} is now {format_setting(key, value)}."))


def _change(form: Form, key: str) -> SetConfig:
    if form.flag("unset"):
        return SetConfig(key=key, unset=True)
    return SetConfig(key=key, value=parse_setting(SETTINGS[key], form.text("value")))


async def _show(
    request: Request, errors: dict[str, str], typed: dict[str, str], status_code: int
) -> Response:
    config = await visitor_of(request).link.call(GetConfig(), Config)
    return await show(
        request,
        "settings.html",
        title="Settings",
        status_code=status_code,
        settings=config.settings,
        known=SETTINGS,
        choices={"on_lost": ON_LOST},
        errors=errors,
        typed=typed,
    )
