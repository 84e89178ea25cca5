"""A figure as a part of an HTML page, or as a page of its own: inline, compressed, without a network."""

from __future__ import annotations

import base64
import functools
import zlib
from html import escape
from importlib.resources import files

from plotly.graph_objects import Figure

#: Plotly writes colours into the drawing; those of the page or notebook win, so that dark mode and print need no second
#: figure.
FIGURE_CSS = """
.figure { min-height: 440px; }
@media (max-width: 600px) { .figure { min-height: 560px; } }
@media (scripting: none) { .figure { min-height: 0; } }
.figure :is(.xtick, .x2tick, .ytick, .cbaxis, .cbtitle) text,
.figure :is(.xtitle, .x2title, .ytitle, .legendtext, .annotation-text) { fill: currentColor !important; }
.figure .gridlayer path { stroke: var(--line, #8884) !important; }
"""

_PAGE_CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --line: #dfe3e8; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --line: #343b46; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 1rem; color: var(--ink); }
h1 { font-size: 1.1rem; }
.figure { height: calc(100vh - 5rem); }
"""

#: As where a mail program shows the page.
_UNDRAWN = "<noscript>This figure is drawn by JavaScript, which is off here: open the page in a browser.</noscript>"


def figure_html(figure: Figure, *, full_page: bool) -> str:
    """HTML of one figure. A full page brings plotly.js along; a part is for a page that has `plotly_library` once."""
    title = escape(figure.layout.meta)
    drawing = _packed(str(figure.to_json()).encode())
    part = f'<div class="figure" role="figure" aria-label="{title}">{_UNDRAWN}</div>'
    part += f'<script type="text/plain">{drawing}</script>'
    if not full_page:
        return part
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_PAGE_CSS}{FIGURE_CSS}</style></head><body><h1>{title}</h1>{part}{plotly_library()}</body></html>\n"
    )


@functools.cache
def plotly_library() -> str:
    """plotly.js and what draws each figure of the page.

    A bundle of what our figures are made of (``plotlyjs/make.sh``), of the version that plotly for Python brings whole:
    a browser starts it in a third of the time, and a page has 0.5 MB instead of two.
    """
    folder = files("dashboards")
    library = _packed(folder.joinpath("plotlyjs", "plotly.min.js").read_bytes())
    draw = folder.joinpath("draw.js").read_text("utf-8")
    return f'<script type="text/plain" id="plotly">{library}</script><script>{draw}</script>'


def _packed(content: bytes) -> str:
    """What the page's script unpacks: a third of the size, and nothing that could end a script element."""
    return base64.b64encode(zlib.compress(content, 9)).decode()
