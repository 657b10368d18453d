"""A new experiment while it is being written: a preset, what was typed over it, and what is wrong with that.

Not here: how it looks (see `screens.configure`), what the experiment would do (see `study`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cfm_tui.console.fields import BY_KEY, FIELDS, Field
from engine.config import Config, settings
from engine.config.settings import Resolved
from engine.errors import UserError

ELSEWHERE = ""  #: where a problem is put that belongs to no field
_COUNT = re.compile(r"^(\d+) problems: ")


def line_name(number: int) -> str:
    """What the free line of that number is called among the fields."""
    return f"line {number}"


@dataclass(frozen=True)
class Checked:
    """What a form means. resolved: None where something is wrong; problems: by field, or `ELSEWHERE`.

    changes: what differs from the preset. before: the same keys as the preset has them.
    """

    resolved: Resolved | None
    problems: dict[str, str] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)


class Form:
    """Fields over a preset. preset: a name; None for the one that `cfm run` takes.

    environ: of which CFM_* counts as it does for `cfm run`.
    config: what the form meant when it was last right; the defaults where it never was.
    """

    def __init__(self, preset: str | None, environ: Mapping[str, str]) -> None:
        self.preset = preset or settings.DEFAULT_PRESET
        self.environ = dict(environ)
        self.texts: dict[str, str] = {}
        self.lines: list[str] = []
        self.config = Config()
        self.origins: dict[str, str] = {}
        self.checked = Checked(None)
        self.check()

    def start(self, preset: str, *, keep: bool = False) -> None:
        """Begin anew from a preset. keep: what was typed stays."""
        self.preset = preset
        if not keep:
            self.texts, self.lines = {}, []
        self.check()

    def write(self, name: str, text: str) -> None:
        """What a field, or a free line, now says; a field that says nothing new is the preset's again."""
        if name in BY_KEY:
            self.texts.pop(name, None)
            if text.strip() and text.strip() != self._without(BY_KEY[name]):
                self.texts[name] = text
            return
        number = int(name.split()[-1])
        self.lines += [""] * (number + 1 - len(self.lines))
        self.lines[number] = text

    def _without(self, each: Field) -> str | None:
        """What a field says that nobody has written; None where that is not known."""
        try:
            found = settings.resolve(preset=self.preset, sets=self.sets(), environ=self.environ, label="form")
        except UserError:
            return None
        return each.text(settings.flat(found.config)[each.key])

    def sets(self) -> list[str]:
        """Everything that was typed, as `key=value`; free lines count more than fields."""
        typed = [BY_KEY[key].set(text) for key, text in self.texts.items()]
        return typed + [line.strip() for line in self.lines if line.strip()]

    def check(self) -> Checked:
        """See what all of it means together."""
        try:
            found = settings.resolve(preset=self.preset, sets=self.sets(), environ=self.environ, label="form")
            changed = settings.changes(self.preset, found.config, self.environ)
            plain = settings.resolve(preset=self.preset, environ=self.environ)
        except UserError as error:
            self.checked = Checked(None, self._placed(error))
            return self.checked
        resolved = settings.resolve(
            preset=self.preset, sets=settings.as_sets(changed), environ=self.environ
        )  # so that origins are those of the command line
        before = settings.flat(plain.config)
        self.config, self.origins = found.config, resolved.origins
        self.checked = Checked(resolved, {}, changed, {key: before[key] for key in changed})
        return self.checked

    def shown(self, each: Field) -> str:
        """A field's text: what was typed, else what holds."""
        return self.texts.get(each.key) or each.text(settings.flat(self.config)[each.key])

    def applies(self, each: Field) -> bool:
        """Whether a field means anything now."""
        networks = (self.config.backbone.name, *self.config.validate_.students)
        return not each.convnet or "convnet" in networks

    def command(self) -> str:
        """The `cfm run` that does the same, given the same environment."""
        return settings.command_line(self.preset, settings.as_sets(self.checked.changes))

    def differences(self) -> list[str]:
        """What differs from the preset, a line each."""
        return [
            f"{key}: {_inline(key, self.checked.before[key])} → {_inline(key, value)}"
            for key, value in self.checked.changes.items()
        ]

    def save(self, name: str, *, replace: bool = False) -> None:
        """Make it a preset of the user's own, and begin from that. Raises UserError as `save_preset` does."""
        assert self.checked.resolved is not None
        text = settings.as_preset(name, self.preset, self.config)
        settings.save_preset(name, text, replace=replace)
        self.start(name)

    # --- problems ---------------------------------------------------------------------------------

    def _placed(self, error: UserError) -> dict[str, str]:
        """The engine's words, each sentence by the field whose key it names."""
        found: dict[str, str] = {}
        sentences = _sentences(error.message)
        for sentence in sentences:
            name = self._named(sentence)
            hint = error.hint if len(sentences) == 1 or sentence == sentences[-1] else ""
            said = f"{sentence}\n→ {hint}" if hint else sentence
            found[name] = f"{found[name]}\n{said}" if name in found else said
        return found

    def _named(self, sentence: str) -> str:
        for number, line in enumerate(self.lines):
            key = line.partition("=")[0].strip()
            if key and (_names(sentence, key) or line.strip()[:60] in sentence):
                return line_name(number)
        named = [each.key for each in FIELDS if _names(sentence, each.key)]
        if not named and ":" in sentence:  # of a whole section: its fields by their short names
            section, _, rest = sentence.partition(":")
            named = [
                each.key
                for each in FIELDS
                if each.key.startswith(f"{section}.") and _names(rest, each.key.removeprefix(f"{section}."))
            ]
        typed = [key for key in named if key in self.texts]
        return (typed or named or [ELSEWHERE])[-1 if typed else 0]


def _sentences(message: str) -> Sequence[str]:
    """The problems that a message of the engine counts, one by one, if they can be told apart."""
    counted = _COUNT.match(message)
    if counted is None:
        return [message]
    parts = message[counted.end() :].split("; ")
    return parts if len(parts) == int(counted.group(1)) else [message]


def _names(sentence: str, key: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(key)}(?![\w]|\.\w)", sentence) is not None


def _inline(key: str, value: object) -> str:
    return (BY_KEY[key].text(value) or "none") if key in BY_KEY else settings.as_sets({"": value})[0][1:]
