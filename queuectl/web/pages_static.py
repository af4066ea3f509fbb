"""
The dashboard's own files: styles, modules, the icon.

They are read once and served from memory under a path that holds a hash over all of them. So a
browser may keep them for good, a new release is a new path, and the modules may import each other
by their plain names. Nothing comes from anywhere else.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

#: Everything that may be served, with its type: what is not listed is not there.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOREVER = "public, max-age=31536000, immutable"


class StaticFiles(NamedTuple):
    """
    The files by name, with their types, and the hash that stands in their path.
    """

    version: str
    by_name: dict[str, tuple[bytes, str]]


@cache
def static_files() -> StaticFiles:
    """
    Return the files, read at the first call.
    """
    by_name = {}
    digest = hashlib.sha256()
    folder = files("queuectl.web") / "static"
    for each in sorted(folder.iterdir(), key=lambda file: file.name):
        kind = _TYPES.get(each.name[each.name.rfind(".") :])
        if kind is not None:
            content = each.read_bytes()
            by_name[each.name] = (content, kind)
            digest.update(each.name.encode() + b"\0" + content + b"\0")
    return StaticFiles(digest.hexdigest()[:12], by_name)


def static_url(name: str) -> str:
    """
    Return the path of a file. A name that there is none of is a bug.
    """
    static = static_files()
    assert name in static.by_name, name
    return f"/static/{static.version}/{name}"


async def serve_static(request: Request) -> Response:
    """
    Answer with a file. One of another release, asked for by a page from before, is not kept.
    """
    static = static_files()
    found = static.by_name.get(request.path_params["name"])
    if found is None:
        return PlainTextResponse("no such file\n", 404)
    content, kind = found
    current = request.path_params["version"] == static.version
    headers = {"Cache-Control": _FOREVER if current else "no-cache"}
    return Response(content, media_type=kind, headers=headers)
