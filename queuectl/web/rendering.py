"""
Pages from templates. Everything that is put into one is text: markup in it is escaped.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse


@cache
def environment() -> Environment:
    """
    Return the templates of this package.
    """
    return Environment(
        loader=PackageLoader("queuectl.web"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """
    Return the page that *template* makes of *values*.
    """
    text = environment().get_template(template).render(**values)
    return HTMLResponse(text, status_code=status)
