"""A report's page in tests: parsed strictly, with what it refers to."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

VOID = {"meta", "img", "br", "link", "input", "hr"}
REFERENCES = {"src", "href", "srcset", "action", "poster", "data", "xlink:href", "background"}


class Page(HTMLParser):
    """Tags balanced, no script, nothing from outside; raises AssertionError where it is not so.

    images: (source, text in its place). headings: (level, text). ids, links: anchors, and where to.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.headings: list[tuple[int, str]] = []
        self.captions: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert {link.removeprefix("#") for link in self.links} <= set(self.ids)

    def handle_starttag(self, tag, attributes):
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}, tag
        found = dict(attributes)
        assert len(found) == len(attributes), attributes
        assert not any(name.startswith("on") for name in found), attributes
        for name in REFERENCES & set(found):
            assert found[name].startswith(("data:image/", "#")), (tag, found[name][:60])
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append((found["src"], found["alt"]))
        if tag in {"h1", "h2", "h3"}:
            self.headings.append((int(tag[1]), ""))
        if tag == "figcaption":
            self.captions.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert "url(" not in data, "a style may not load anything"
        assert "@import" not in data
        self.text += data
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            level, before = self.headings[-1]
            self.headings[-1] = level, before + data
        if "figcaption" in self.open:
            self.captions[-1] += data


def mean_cosine(features, labels, label):
    """The mean cosine over all pairs of a class, pair by pair."""
    members = [row for row, own in zip(features, labels, strict=True) if own == label and np.any(row)]
    cosines = [
        np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b))
        for place, a in enumerate(members)
        for b in members[place + 1 :]
    ]
    return np.mean(cosines) if cosines else np.nan
