"""The form of a new experiment as a page: its panels and fields, and what is wrong with them in place.

Not here: what is found out about it, and what its keys lead to (see `configure`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Button, Static

from cfm_tui.console import experiment_text
from cfm_tui.console.fields import BACKBONE, BUDGET, BY_KEY, DATA, FIELDS, LAUNCH, OBJECTIVE, PANELS
from cfm_tui.console.form import ELSEWHERE, Form, line_name
from cfm_tui.console.preflight import Findings
from cfm_tui.console.screens.base import Page, Panel
from cfm_tui.console.screens.picking import Offer, Pick
from cfm_tui.console.widgets.field import Entry
from engine.config import Config
from engine.config.messages import leaves

SAMPLE = 8  #: cells that a sample image is wide
BUTTONS = (("l", "launch", "launch"), ("w", "write", "save as preset"), ("c", "copy", "copy command"))


class FormPage(Page):
    """Fields over a preset. preset: what it begins with; None for the one that `cfm run` takes."""

    CSS_PATH = "configure.tcss"
    LEAST = (110, 30)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,tab", "move(1)", "next field", show=False, id="form.next"),
        Binding("up,shift+tab", "move(-1)", "field before", show=False, id="form.before"),
        Binding("j", "move(1)", "next field", show=False, id="form.down"),
        Binding("k", "move(-1)", "field before", show=False, id="form.up"),
        Binding("g", "end(0)", "first field", show=False, id="form.first"),
        Binding("G", "end(-1)", "last field", show=False, id="form.last"),
        Binding("pagedown", "scroll(1)", "scroll", show=False, id="form.scroll", tooltip="Scroll the panel"),
        Binding("pageup", "scroll(-1)", "scroll", show=False, id="form.back"),
    ]

    def __init__(self, preset: str | None = None) -> None:
        super().__init__()
        self.form = Form(preset, os.environ)
        self.findings = Findings(self.form.config)
        self.touched = time.monotonic()  #: when something was changed last
        self.unchecked = False
        self.chosen_layer = 0
        self._wrong: dict[str, Static] = {}

    # --- layout -----------------------------------------------------------------------------------

    def body(self) -> Iterator[Widget]:
        """Four panels of settings in two columns, and the launch under them."""
        from cfm_tui.console.widgets.chart import Chart
        from cfm_tui.console.widgets.thumbnails import Thumbnails

        sides: dict[int, list[Widget]] = {
            DATA: [_said("data"), Thumbnails(id="samples"), _said("sets")],
            BACKBONE: [_said("backbone")],
            OBJECTIVE: [Chart(id="betas"), Chart(id="responses", log=True)],
            BUDGET: [_said("estimate")],
            LAUNCH: [_buttons(), _said("command"), _said("differences")],
        }
        with_fields = {number: self._panel(number, sides[number]) for number in PANELS}
        left = Vertical(with_fields[DATA], with_fields[BACKBONE], id="left", classes="holder")
        right = Vertical(with_fields[OBJECTIVE], with_fields[BUDGET], id="right", classes="holder")
        yield Container(left, right, id="panels", classes="columns")
        yield with_fields[LAUNCH]
        yield Static(id="wrong", markup=False, classes="error")
        yield Static(id="told", markup=False)

    def _panel(self, number: int, side: list[Widget]) -> Panel:
        fields: list[Widget] = [
            Entry(each.key, each.label, each.choices) for each in FIELDS if each.panel == number
        ]
        if number == LAUNCH:
            fields = [self._line(0)]
        pair = Container(
            Vertical(*fields, classes="fields", id=f"fields{number}"),
            Vertical(*side, classes="side"),
            classes="pair",
        )
        return Panel(number, PANELS[number], pair, id=f"panel{number}")

    def _line(self, number: int) -> Entry:
        return Entry(line_name(number), "KEY=VALUE", likely=[f"{key}=" for key in leaves(Config)])

    def begin(self) -> None:
        """Show the form as it begins."""
        self.show()

    def _arrange(self) -> None:
        """Where one panel is shown at a time, the launch is alone as the others are."""
        super()._arrange()
        self.query_one("#panels").display = not (self.has_class("-single") and self._current == LAUNCH)

    # --- fields -----------------------------------------------------------------------------------

    def stops(self) -> list[Widget]:
        """All fields that mean anything now and all charts, in order."""
        found = [widget for panel in self.panels() for widget in panel.query("Entry, Chart")]
        return [widget for widget in found if widget.display]

    def entry(self, name: str) -> Entry:
        """The field of that name."""
        return next(entry for entry in self.query(Entry) if entry.name == name)

    def on_entry_written(self, message: Entry.Written) -> None:
        """A letter more, or a field that is done."""
        self.touch()
        self.form.write(message.entry.name or "", message.text)
        self.unchecked = True
        if message.final:
            self.check()

    def on_entry_asked(self, message: Entry.Asked) -> None:
        """Offer the choices of a field."""
        entry = message.entry
        offers = [Offer(choice, self._note(entry.name or "", choice)) for choice in entry.choices]

        def chosen(answer: str | None) -> None:
            if answer is not None:
                self.on_entry_written(Entry.Written(entry, answer, True))

        self.app.push_screen(Pick(f"{entry.label} ({entry.name})", offers, entry.value), chosen)

    def _note(self, name: str, choice: str) -> str:
        from engine.config import settings

        if name == "data.name":
            return next(
                (experiment_text.where(each) for each in self.findings.sets if each.name == choice), ""
            )
        kind = {"objective.method": "methods", "protocol": "protocols"}.get(name)
        return settings.describe(choice, kind) if kind else ""

    def check(self) -> bool:
        """See what the form means now, and show it; whether it is right."""
        self.unchecked = False
        right = self.form.check().resolved is not None
        if right and self.form.config != self.findings.config:
            self.findings = self.findings.of(self.form.config)
        self.show()
        return right

    def touch(self) -> None:
        """Something was changed."""
        self.touched = time.monotonic()

    def on_descendant_focus(self) -> None:
        """Say what the field is for."""
        super().on_descendant_focus()
        self._tell()

    def on_key(self, event: events.Key) -> None:
        """A field that is left by Tab or an arrow is done with."""
        if event.key in ("tab", "shift+tab", "up", "down"):
            for entry in self.query(Entry):
                entry.commit()

    def action_move(self, step: int) -> None:
        """To another field, whichever panel it is in."""
        stops = self.stops()
        held = next((stop for stop in stops if stop.has_focus or stop.has_focus_within), None)
        at = stops.index(held) + step if held is not None else 0
        self.go(stops[at % len(stops)])

    def action_end(self, at: int) -> None:
        """To the first or last field."""
        self.go(self.stops()[at])

    def action_scroll(self, step: int) -> None:
        """What does not fit in the current panel."""
        for part in self.query(f"#panel{self._current} .pair, #panel{self._current} .side"):
            part.scroll_relative(y=step * max(1, part.size.height - 1), animate=False)

    def go(self, widget: Widget) -> None:
        """Focus a field or chart, in whichever panel it is."""
        panel = next(node for node in widget.ancestors if isinstance(node, Panel))
        if panel.number != self._current:
            self._current = panel.number
            self._arrange()
        widget.focus()

    # --- showing ----------------------------------------------------------------------------------

    def show(self) -> None:
        """Everything that follows from the form."""
        self._show_lines()
        for entry in self.query(Entry):
            self._show_entry(entry)
        form, wrong = self.form, self.query_one("#wrong", Static)
        elsewhere = form.checked.problems.get(ELSEWHERE, "")
        wrong.update(f"! {elsewhere}" if elsewhere else "")
        wrong.display = bool(elsewhere)
        count = len(form.checked.changes)
        if form.checked.resolved is None:
            count = len(form.checked.problems)
            state = f"{count} problem{'' if count == 1 else 's'}"
        else:
            state = f"{count} change{'' if count == 1 else 's'}" if count else "as it ships"
        self.say(form.preset, state)
        command, differs = "The command, once all is right.", ""
        if form.checked.resolved is not None:
            command = form.command()
            differs = "\n".join(form.differences()) or "Nothing differs from the preset."
        self.query_one("#command", Static).update(command)
        self.query_one("#differences", Static).update(differs)
        self.show_findings()
        self._tell()

    def _show_lines(self) -> None:
        """One free line more than were written."""
        there = [entry for entry in self.query(Entry) if (entry.name or "").startswith("line ")]
        wanted = len(self.form.lines) + (1 if not self.form.lines or self.form.lines[-1].strip() else 0)
        for number in range(len(there), wanted):
            self.query_one(f"#fields{LAUNCH}").mount(self._line(number))
        for entry in there[wanted:]:
            entry.remove()

    def _show_entry(self, entry: Entry) -> None:
        name, checked = entry.name or "", self.form.checked
        problem = checked.problems.get(name, "")
        mark, note = "!" if problem else " ", ""
        if name in BY_KEY:
            entry.display = self.form.applies(BY_KEY[name])
            mark = mark if problem or name not in checked.changes else "*"
            value, note = self.form.shown(BY_KEY[name]), BY_KEY[name].none
        else:
            number = int(name.split()[-1])
            value = self.form.lines[number] if number < len(self.form.lines) else ""
            note = "any other setting"
        entry.show(entry.value if entry.editing else value, note, mark)
        place = self._wrong.get(name)
        if problem and place is None:
            place = self._wrong[name] = Static(markup=False, classes="error")
            self.query_one(f"#{entry.parent.id}").mount(place, after=entry)  # type: ignore[union-attr]
        if place is not None:
            place.update(f"! {problem}" if problem else "")
            place.display = bool(problem)

    def _tell(self) -> None:
        """What the field with the focus is for."""
        nodes = self.focused.ancestors_with_self if self.focused is not None else []
        entry = next((each for each in nodes if isinstance(each, Entry)), None)
        if entry is None or not self.is_mounted:
            return
        field = BY_KEY.get(entry.name or "")
        if field is None:
            text = "any setting by its key, as --set takes it, such as recover.clamp=false"
        else:
            text = f"{field.key}: {field.help} ({self.form.origins.get(field.key, 'default')})"
        self.query_one("#told", Static).update(text, layout=False)

    def show_findings(self) -> None:
        """Show what is known of the configuration, in every panel's side."""
        from cfm_tui.console.widgets.thumbnails import Thumbnails

        found = self.findings
        self.query_one("#data", Static).update(experiment_text.data(found, self.fetching()))
        self.query_one("#backbone", Static).update(experiment_text.backbone(found))
        self.query_one("#estimate", Static).update(experiment_text.estimate(found))
        known = "\n".join(f"{each.name:<14}{experiment_text.where(each)}" for each in found.sets)
        self.query_one("#sets", Static).update(f"\n{known}" if known else "")
        samples = self.query_one("#samples", Thumbnails)
        look = found.look
        samples.display = look is not None
        if look is not None:
            names = [look.classes[int(label)] for label in look.labels_M]
            samples.show_images(list(look.samples_MCSS), names, SAMPLE)
        self.show_curves()

    def fetching(self) -> str:
        """What is being downloaded, if anything is."""
        return ""

    def show_curves(self) -> None:
        """β_b as it is edited, and the filters' responses."""
        from cfm_tui.console.widgets.chart import Chart
        from cfm_tui.display.charts import Line

        config, spectra = self.form.config, self.findings.spectra or {}
        classes = experiment_text.classes(self.findings)
        name, x, y = experiment_text.betas(config, classes)
        self.query_one("#betas", Chart).plot([Line(name, x, y)], title=name, x_label="b")
        layer = list(spectra)[self.chosen_layer % len(spectra)] if spectra else None
        lines, label = experiment_text.responses(
            config, classes, spectra.get(layer) if layer is not None else None
        )
        title = layer if layer is not None else "f(λ), no statistics yet"
        if not config.optimises:
            title = "no filter: nothing is optimised"
        self.query_one("#responses", Chart).plot(lines, title=title, x_label=label)

    def csv(self) -> str:
        """The data of the chart with the focus, else of β_b."""
        from cfm_tui.console.widgets.chart import Chart

        held = self.focused
        return (held if isinstance(held, Chart) else self.query_one("#betas", Chart)).csv()


def _said(name: str) -> Static:
    return Static(id=name, markup=False)


def _buttons() -> Horizontal:
    return Horizontal(
        *(Button(f"{key} {text}", name=name, compact=True) for key, name, text in BUTTONS), classes="buttons"
    )
