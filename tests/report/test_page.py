"""The page of a report: text is escaped and anchors differ."""

from pages import Page

from engine.report import page


def test_text_is_escaped_and_anchors_differ():
    odd = '<script>alert("1")</script> & "so"'
    parts = [
        page.PageTable(odd, (odd, "b"), ((odd, odd),)),
        page.Note(odd, warning=True),
    ]
    sections = [
        page.PageSection(odd, parts),
        page.PageSection(odd, []),
        page.PageSection("β", []),
        page.PageSection("Ψ", []),
    ]
    found = Page(page.html(odd, odd, sections, odd))
    assert found.text.count(odd) >= 7
    assert len(found.links) == 4


def test_a_table_with_a_summary_is_folded_and_numbers_do_not_wrap():
    rows = (("a", "85.39 ± 0.70 (3)", "−1.5", "12 images of a class"),)
    folded = page.html(
        "t", "l", [page.PageSection("s", [page.PageTable("c", ("x",) * 4, rows, "All")])], "cfm"
    )
    Page(folded)
    assert "<details>\n<summary>All</summary>\n<div" in folded
    assert '<td class="number">−1.5</td>' in folded
    assert "<summary>All" not in page.html(
        "t", "l", [page.PageSection("s", [page.PageTable("c", ("x",), ())])], ""
    )


# --- the same as text ----------------------------------------------------------------------------
