"""The page of a report: text is escaped and anchors differ."""

from pages import Page

from engine.report import page


def test_text_is_escaped_and_anchors_differ():
    odd = '<script>alert("1")</script> & "so"'
    parts = [
        page.PageTable(odd, (odd, "b"), ((odd, odd),)),
        page.Note(odd, warning=True),
    ]
    sections = [page.Section(odd, parts), page.Section(odd, []), page.Section("β", []), page.Section("Ψ", [])]
    found = Page(page.html(odd, odd, sections, odd))
    assert found.text.count(odd) >= 7
    assert len(found.links) == 4


# --- the same as text ----------------------------------------------------------------------------
