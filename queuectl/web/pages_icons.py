"""
The icons of the dashboard: drawings on 16 by 16, stroked in the colour of the text beside them.
"""


def _drawn(path: str) -> str:
    return f'<svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="{path}"/></svg>'


ICONS = {
    name: _drawn(path)
    for name, path in {
        "overview": "M2 9.5h3l2-6 2.5 9 2-5H14",
        "jobs": "M2.5 4h11M2.5 8h11M2.5 12h7",
        "schedule": "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 5v3l2 1.5",
        "dead": "M2 4h12v8.5H2zM2 9h3.5L7 10.5h2L10.5 9H14M6.5 4l3-2.5",
        "workers": "M4.5 4.5h7v7h-7zM6.5 2v2.5M9.5 2v2.5M6.5 11.5V14M9.5 11.5V14"
        "M2 6.5h2.5M2 9.5h2.5M11.5 6.5H14M11.5 9.5H14",
        "queues": "M8 2l6 3-6 3-6-3zM2 8l6 3 6-3M2 11l6 3 6-3",
        "settings": "M2 5h6M12 5h2M2 11h2M8 11h6"
        "M10 3.2a1.8 1.8 0 1 0 .01 0M6 9.2a1.8 1.8 0 1 0 .01 0",
        "tokens": "M10.5 2.5a3 3 0 1 0 .01 0M8.3 7.7L2.5 13.5M4.5 11.5l2 2",
        "search": "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM10.8 10.8L14 14",
        "plus": "M8 3v10M3 8h10",
        "warning": "M8 2l6.5 11.5h-13zM8 6.5v3M8 11.7v.1",
        "check": "M3 8.5l3.5 3.5L13 4.5",
        "cross": "M4 4l8 8M12 4l-8 8",
        "download": "M8 2v8M4.5 7L8 10.5 11.5 7M2.5 13.5h11",
        "copy": "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
        "leave": "M6 2.5H3v11h3M7 8h7M11 5l3 3-3 3",
    }.items()
}

ICONS["mark"] = (
    '<svg viewBox="0 0 20 20" aria-hidden="true">'
    '<path d="M3 3h14v3.5H3zM3 8.2h10v3.5H3zM3 13.5h6V17H3z"/></svg>'
)
