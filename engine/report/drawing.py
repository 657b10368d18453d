"""Shared elements of all figures: fonts, empty panels, scales, and conversion to bytes.

Figures are 7.2 inches wide with 8-point text, so they can be printed. This module keeps no state between
figures. Matplotlib is imported by the first figure.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  #: inches
SMALL, TEXT = 7.0, 8.0  #: points
PANELS = 12  #: maximum number of panels of a figure


def create_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure with a constrained layout. height, width: in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def create_panels(count: int, height: float = 1.75) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, and their axes. height: of each row of panels, in inches."""
    columns = 2 if count in (2, 4) else max(1, min(3, count))
    rows = -(-count // columns)
    figure = create_figure(0.75 + height * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    panels = [each for row in axes for each in row]
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]


def style_axes(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Style an empty panel, and set its title and the labels of its axes.

    It has two spines, small tick labels, and a faint grid behind the data.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=SMALL)
    axes.grid(True, color="#D9D9D9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_title(escape_text(shorten(title, 34)), fontsize=TEXT)
    axes.set_xlabel(escape_text(x_label), fontsize=TEXT)
    axes.set_ylabel(escape_text(y_label), fontsize=TEXT)


def draw_empty_panel(axes: Axes, text: str = "nothing finite to draw") -> None:
    """Show a text in a panel instead of data."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.text(0.5, 0.5, escape_text(text), transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Add one legend for all panels, each name once."""
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, name in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        columns = min(4, len(handles))
        figure.legend(
            handles.values(), handles, loc="outside upper center", ncols=columns, fontsize=TEXT, frameon=False
        )


def set_log_scale(axes: Axes, values: Sequence[NDArray[np.float64]]) -> None:
    """Use a log scale for y if all finite values are positive.

    The ticks are a few plain numbers if the range is below one decade.
    """
    finite = np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in values] or [np.empty(0)])
    finite = finite[np.isfinite(finite)]
    if not len(finite) or finite.min() <= 0:
        return
    low, high = float(finite.min()), float(finite.max())
    axes.set_yscale("log")
    if high >= 10 * low:
        return
    if high < 1.5 * low:
        axes.set_ylim(low / 1.5, high * 1.5)
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    narrow = high < 3 * low
    axes.yaxis.set_major_locator(MaxNLocator(4) if narrow else LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))


def evenly_spaced(count: int, limit: int) -> list[int]:
    """Return at most `limit` evenly spaced indices below `count`, including the first and the last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, limit)).tolist()})


def escape_text(text: str) -> str:
    """Return text that Matplotlib draws literally: no formulas, ``?`` for unprintable characters."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text).replace("$", r"\$")


def shorten(text: str, limit: int) -> str:
    """Return text of at most `limit` characters, with an ellipsis in place of an omitted middle."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def wrap(text: str, width: int) -> str:
    """Return text wrapped into lines of about `width` characters."""
    return "\n".join(textwrap.wrap(shorten(text, 3 * width), width)) or text


def render(figure: Figure, kind: Literal["png", "svg"], dpi: float = 200) -> bytes:
    """Return a figure as the content of a file. dpi: of PNG files.

    SVG files have text as outlines, so that they need no fonts.
    """
    options: dict[str, Any] = {"dpi": dpi} if kind == "png" else {"metadata": {"Date": None}}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # class names may use any script
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
