"""What all figures have in common: colours, type, empty panels, and how a figure becomes bytes.

Colours are Okabe's and Ito's, told apart by the colour-blind; no curve is told by colour alone. Figures are
7.2 inches wide with type of 8 points, so they can be printed. Nothing here keeps state between figures.
Matplotlib is loaded by the first figure.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
GREY, PALE = "#555555", "#D9D9D9"
WIDTH = 7.2  #: inches
SMALL, TEXT = 7.0, 8.0  #: points
DPI = 200
PANELS = 12  #: of a figure, at most
NOTHING = "nothing finite to draw"


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of that size in inches; what is in it finds its place itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def across(count: int) -> int:
    """How many of `count` panels stand in a row."""
    return 2 if count in (2, 4) else max(1, min(3, count))


def panels(count: int, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `across` in a row."""
    columns = across(count)
    rows = -(-count // columns)
    found = figure(0.75 + height * rows)
    axes = found.subplots(rows, columns, squeeze=False)
    flat = [each for row in axes for each in row]
    for spare in flat[count:]:
        spare.set_axis_off()
    for each in flat[:count]:
        plain_axes(each)
    return found, flat[:count]


def plain_axes(axes: Axes) -> None:
    """Two spines, small type, a faint grid below what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=SMALL)
    axes.grid(True, color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)


def titled(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Name a panel and its axes."""
    axes.set_title(literal(shorter(title, 34)), fontsize=TEXT)
    axes.set_xlabel(literal(x_label), fontsize=TEXT)
    axes.set_ylabel(literal(y_label), fontsize=TEXT)


def empty(axes: Axes, text: str = NOTHING) -> None:
    """Say in a panel why there is nothing in it."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.text(0.5, 0.5, literal(text), transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)


def legend(found: Figure, axes: Sequence[Axes]) -> None:
    """One legend over all panels: every name once."""
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        found.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=min(4, len(handles)),
            fontsize=TEXT,
            frameon=False,
        )


def log_if_positive(axes: Axes, values: Sequence[Floats]) -> bool:
    """Make y logarithmic where all that is finite is positive, and there is something; returns whether."""
    known = np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in values] or [np.empty(0)])
    known = known[np.isfinite(known)]
    if not len(known) or known.min() <= 0:
        return False
    logarithmic(axes, float(known.min()), float(known.max()))
    return True


def logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic y axis; one that spans little has few plain numbers instead of powers of ten."""
    axes.set_yscale("log")
    if high >= 10 * low:
        return
    if high < 1.5 * low:
        axes.set_ylim(low / 1.5, high * 1.5)
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    few = high < 3 * low
    axes.yaxis.set_major_locator(MaxNLocator(4) if few else LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` places at equal distances, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, most).tolist()})


def literal(text: str) -> str:
    """Text that is drawn as it stands: no formula, nothing that cannot be printed."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text).replace("$", r"\$")


def shorter(text: str, most: int) -> str:
    """Text of at most so many characters; what is left out in the middle is told by an ellipsis."""
    if len(text) <= most:
        return text
    first = (most - 1) // 2
    return f"{text[:first]}…{text[len(text) - (most - 1 - first) :]}"


def wrapped(text: str, width: int) -> str:
    """Text in lines of about `width` characters."""
    return "\n".join(textwrap.wrap(shorter(text, 3 * width), width)) or text


def png(found: Figure, dpi: float = DPI) -> bytes:
    """A figure as a PNG file."""
    return _saved(found, "png", dpi=dpi)


def svg(found: Figure) -> bytes:
    """A figure as an SVG file whose letters are outlines: it needs no font."""
    return _saved(found, "svg", metadata={"Date": None})


def _saved(found: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # a class's name may be of any script
        found.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
