"""The look of every figure: quiet SVG whose colours follow the page, light or dark.

matplotlib draws with placeholder colours that become CSS variables afterwards, so one figure serves a light page,
a dark page and a file of its own. No global state of matplotlib is touched and nothing refers to the network.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmrec.files import write_text

INK, MUTED, GRID, BLUE, ORANGE, GREEN = (f"#0{n}0{n}0{n}" for n in range(1, 7))
SERIES = (BLUE, ORANGE, GREEN)
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "rule", BLUE: "blue", ORANGE: "orange", GREEN: "green"}
LIGHT = {
    "page": "#ffffff",
    "ink": "#1d2330",
    "muted": "#5b6475",
    "rule": "#dfe3ea",
    "panel": "#f6f7f9",
    "blue": "#2763b8",
    "orange": "#bd5b12",
    "green": "#2c7d4f",
    "red": "#b3312c",
}
DARK = {
    "page": "#14171d",
    "ink": "#e4e7ed",
    "muted": "#9aa3b2",
    "rule": "#323844",
    "panel": "#1c2029",
    "blue": "#78aef5",
    "orange": "#eb9a58",
    "green": "#70c291",
    "red": "#ef8a84",
}
_STYLE = {
    "svg.fonttype": "none",
    # Ids in the SVG are hashes; with a fixed salt the same figure is the same file.
    "svg.hashsalt": "llmrec",
    # Names of systems are untrusted: a dollar sign in one must not start a formula.
    "text.parse_math": False,
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def css_variables(colours: dict[str, str]) -> str:
    """The colours as CSS custom properties."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for the figures drawn inside the block."""
    with mpl.rc_context(_STYLE):
        yield


def columns_for(count: int) -> int:
    """Panels in a row: three, but two and two of four."""
    return 2 if count == 4 else min(3, count)


def panels(count: int, columns: int = 3, width: float = 9.6, height: float = 2.35) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes in rows of `columns`; sizes in inches, `height` for one row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows + 0.1), layout="constrained")
    axes = [figure.add_subplot(rows, columns, n + 1) for n in range(count)]
    return figure, axes


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element for a page; `label` is read out to those who cannot see it."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = (
        re.sub(r'\s(xmlns(:xlink)?|width|height|version)="[^"]*"', "", text[: text.index(">")])
        + text[text.index(">") :]
    )
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font: ([\d.]*px|[\w ]*[\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    # Colours become CSS variables, so that one figure follows the reader's light or dark setting.
    for placeholder, name in _VARIABLES.items():
        text = text.replace(placeholder, f"var(--{name}, {LIGHT[name]})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1).strip()


def save_svg(path: Path, svg: str) -> None:
    """Writes an `<svg>` element as a file with colours of its own for light and dark viewers."""
    css = (
        f"svg{{{css_variables(LIGHT)}background:var(--page)}}"
        f"@media (prefers-color-scheme:dark){{svg{{{css_variables(DARK)}}}}}"
    )
    head, body = svg.split(">", 1)
    write_text(path, f'{head} xmlns="http://www.w3.org/2000/svg"><style>{css}</style>{body}\n')


def own_ids(svg: str, prefix: str) -> str:
    """The figure with `prefix` before its ids, which several figures of one page otherwise share."""
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)
