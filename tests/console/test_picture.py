"""Pictures repaint what changed."""

from __future__ import annotations

from bare import Bare, lines, play, screen
from hypothesis import given
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from cfm_tui.console.widgets.picture import Picture, find_changed_spans


def test_only_the_cells_that_changed_are_repainted_and_sent() -> None:
    app = Bare(Picture())

    async def story(pilot) -> None:
        app.widget.show(lines("a" * 60, "b" * 60, "c" * 60))
        await pilot.pause()
        app.forget()
        app.widget.show(lines("a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"))
        await pilot.pause()
        assert sorted(app.regions) == [(1, 30, 31), (2, 58, 60)]
        assert screen(app)[:3] == ["a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"]
        assert app.sent < 150
        app.forget()
        app.widget.show(lines("a" * 60, "b" * 30 + "X" + "b" * 29, "c" * 58 + "YY"))
        await pilot.pause()
        assert app.sent == 0
        app.widget.show(lines("a" * 60))
        await pilot.pause()
        assert screen(app)[:3] == ["a" * 60, "", ""]

    play(app, story)


PIECES = st.lists(
    st.tuples(st.text("ab数é ", max_size=6), st.sampled_from([None, "red", "bold"])), max_size=6
)


@given(PIECES, PIECES)
def test_the_changed_spans_turn_one_line_into_the_other(before, after) -> None:
    old, new = (Strip([Segment(text, style and Style.parse(style)) for text, style in parts if text])
                for parts in (before, after))  # fmt: skip
    width = max(old.cell_length, new.cell_length)
    old, new = old.adjust_cell_length(width), new.adjust_cell_length(width)
    shown, spans = old, list(find_changed_spans(old, new))
    for start, end in spans:
        shown = Strip.join([shown.crop(0, start), new.crop(start, end), shown.crop(end)])
    assert shown.text == new.text
    assert all(0 <= start < end <= width for start, end in spans)
    assert bool(spans) == any(one != other for one, other in zip(_each(old), _each(new), strict=True))


def _each(strip: Strip):
    return [(character, style) for text, style, _ in strip.simplify() for character in text] or [None]
