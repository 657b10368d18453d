"""The page of a new experiment: a form over a preset, with checks, estimates and the launch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import ClassVar

from rich.cells import cell_len
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Button

from cfm_tui.console.engine_link import Launch, hidden
from cfm_tui.console.form import (
    BACKBONE,
    BUDGET,
    DATA,
    FIELDS,
    GLOSSES,
    LAUNCH,
    OBJECTIVE,
    PANELS,
    Form,
    list_presets,
)
from cfm_tui.console.preflight import Fetch, Findings, Study, describe_location
from cfm_tui.console.screens.base import Page, Panel, PlainText
from cfm_tui.console.screens.dialogs import Choice, Offer, Pick, Question
from cfm_tui.console.widgets.field import Entry
from cfm_tui.display.progress import format_count
from cfm_tui.display.streams import escape_control_characters
from engine.config import Config
from engine.errors import UserError, quote_command

LEGEND = (
    "b counts the batches of images, from 1 to B; β_b is the ridge of batch b. λ is an eigenvalue of the "
    "feature-feature correlation Ψ; f(λ) weighs the difference of real and distilled features along its "
    "eigenvector. s: the next layer's Ψ, once it is measured."
)


class ConfigurePage(Page):
    """The form of a new experiment. form: edited in place, so that it outlives the page."""

    TAB = "New"
    CSS_PATH = "configure.tcss"
    LEAST = (110, 30)
    QUIET_SECONDS = 0.4  #: time after the last keystroke until the data are located
    STILL_SECONDS = 2.0  #: time after the last keystroke until a trial starts by itself
    LONG_SECONDS = 8 * 3600.0  #: estimated time of a run from which on its launch is confirmed
    BINDINGS: ClassVar[list[BindingType]] = [
        hidden("down,tab,j", "move(1)", "next field", id="form.next"),
        hidden("up,shift+tab,k", "move(-1)", "field before", id="form.before"),
        hidden("g", "end(0)", "first field", id="form.first"),
        hidden("G", "end(-1)", "last field", id="form.last"),
        hidden("pagedown", "scroll(1)", "scroll", id="form.scroll", tooltip="Scroll the panel"),
        hidden("pageup", "scroll(-1)", "scroll", id="form.back"),
        Binding(
            "f5",
            "launch",
            "launch",
            key_display="F5",
            id="configure.launch",
            tooltip="Start the run in this console; also while a field is edited",
        ),
        hidden("l", "launch", "launch", id="configure.launch_outside", tooltip="As F5, outside of fields"),
        Binding("p", "preset", "preset", id="configure.preset", tooltip="Start from another preset"),
        Binding("w", "write", "save as preset", id="configure.write", tooltip="Save the form as a preset"),
        Binding("c", "copy", "copy", id="configure.copy", tooltip="Copy the equivalent `cfm run` command"),
        Binding(
            "v",
            "estimate",
            "estimate",
            id="configure.estimate",
            tooltip="Read the images and time a few steps now",
        ),
        hidden(
            "f2",
            "use_match",
            "matching preset",
            id="configure.match",
            tooltip="Use the preset for this data set",
        ),
        hidden(
            "f3",
            "keep_settings",
            "keep",
            id="configure.keep",
            tooltip="Keep the settings of another data set",
        ),
        hidden("d", "download", "download", id="configure.download", tooltip="Download the data set"),
        hidden("s", "layer", "layer", id="configure.layer", tooltip="The next layer's spectrum"),
    ]

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.findings = Findings(self.form.config)
        self.touched = time.monotonic()  #: time of the last change
        self.unchecked = False
        self.chosen_layer = 0
        self._panels: dict[int, Panel] = {}
        self._sides: dict[int, Widget] = {}
        self._waiting = ""  #: what a pending launch waits for
        self._problem_lines: dict[str, PlainText] = {}
        self._rows: dict[int, Entry] = {}  #: the last field with the focus, by step
        self._study: Study | None = None
        self._fetch: Fetch | None = None
        self._launching = False

    def on_unmount(self) -> None:
        """Stop the threads when the console ends."""
        self._stop_threads()

    def on_screen_suspend(self) -> None:
        """When the page was left, keep what was typed and stop the threads; not under a dialog."""
        if self not in self.app.screen_stack:
            for entry in self.query(Entry):
                entry.commit()
            self._stop_threads()

    def _stop_threads(self) -> None:
        for thread in (self._study, self._fetch):
            if thread is not None:
                thread.stop()
        self._study = self._fetch = None

    def reopen(self) -> None:
        """Show the form again after the page was left: look anew for what may have changed meanwhile."""
        self.findings = Findings(self.findings.config, sets=self.findings.sets, look=self.findings.look)
        self.touch()
        self._arrange()
        self.check()

    # --- layout -----------------------------------------------------------------------------------

    def body(self) -> Iterator[Widget]:
        """Yield the bar of steps, the fields on the left, and what is known of the step on the right."""
        from cfm_tui.console.widgets.chart import Chart
        from cfm_tui.console.widgets.images import Thumbnails

        keys = (("F5", "launch", "launch"), ("w", "write", "save as preset"), ("c", "copy", "copy"))
        buttons = [Button(f"{key} {text}", name=name, compact=True) for key, name, text in keys]
        sides: dict[int, list[Widget]] = {
            DATA: [PlainText(id="data"), Thumbnails(id="samples"), PlainText(id="sets")],
            BACKBONE: [PlainText(id="backbone")],
            OBJECTIVE: [
                Chart(id="betas"),
                Chart(id="responses", log=True, log_x=True),
                PlainText(LEGEND, id="legend"),
            ],
            BUDGET: [PlainText(id="budget")],
            LAUNCH: [
                Horizontal(*buttons, classes="buttons"),
                PlainText(id="command"),
                PlainText(id="differences"),
            ],
        }
        self._panels = {number: self._make_panel(number) for number in PANELS}
        self._sides = {number: Vertical(*widgets, classes="side") for number, widgets in sides.items()}
        fields = Vertical(*self._panels.values(), id="fields")
        self._others, self._cost = PlainText(id="others"), PlainText(id="cost")
        yield PlainText(id="steps")
        yield Container(
            Vertical(fields, PlainText(id="offer"), self._others, id="left"),
            Vertical(
                PlainText("! of the last valid settings:", id="outdated"),
                Vertical(*self._sides.values(), id="sides"),
                self._cost,
                id="right",
            ),
            id="main",
        )
        yield PlainText(id="wrong", classes="error")
        yield PlainText(id="told")

    def _make_panel(self, number: int) -> Panel:
        panel_fields = [each for each in FIELDS.values() if each.panel == number]
        entries = [Entry(self, each.key, each.label, each.choices) for each in panel_fields] or [
            self._make_line(0)
        ]
        for entry in entries:
            self._show_value(entry)
        fields = Vertical(*entries, classes="fields", id=f"fields{number}")
        return Panel(number, PANELS[number], fields, id=f"panel{number}")

    def _make_line(self, number: int) -> Entry:
        suggestions = [f"{key}=" for key in Config.leaf_keys()]
        return Entry(self, Form.line_name(number), "Advanced", suggestions=suggestions)

    def begin(self) -> None:
        """Show the initial form."""
        self.show()

    def _arrange(self) -> None:
        """Show what belongs to the current step."""
        super()._arrange()
        for number, side in self._sides.items():
            side.display = number == self._current
        self._show_steps()
        self._show_outdated()

    # --- fields -----------------------------------------------------------------------------------

    def list_stops(self) -> list[Widget]:
        """Return all visible fields and charts, in the order in which keys move through them."""
        widgets = [
            widget
            for number, panel in self._panels.items()
            for widget in (*panel.query(Entry), *self._sides[number].query("Chart"))
        ]
        return [widget for widget in widgets if widget.display]

    def find_entry(self, name: str) -> Entry:
        """Return the field with a name."""
        return next(entry for entry in self.query(Entry) if entry.name == name)

    def begin_editing(self, entry: Entry) -> None:
        """Update the help line, whose keys do not work while the field is edited."""
        self._show_help()

    def take_entry(self, entry: Entry, *, final: bool) -> None:
        """Take over a field's text; check the form once editing has ended."""
        self.touch()
        self.unchecked = True
        if final:
            self.form.write(entry.name or "", entry.value)
            self.check()

    def choose_entry(self, entry: Entry) -> None:
        """Offer the choices of a field."""
        offers = [Offer(choice, self._describe_choice(entry.name or "", choice)) for choice in entry.choices]

        def write_choice(answer: str | None) -> None:
            if answer is not None:
                entry.value = answer
                self.take_entry(entry, final=True)

        self.app.push_screen(Pick(f"{entry.label} ({entry.name})", offers, entry.value), write_choice)

    def _describe_choice(self, name: str, choice: str) -> str:
        from engine.config import settings

        if name == "data.name":
            matches = (describe_location(each) for each in self.findings.sets if each.name == choice)
            return next(matches, "")
        kind = {"objective.method": "methods", "protocol": "protocols"}.get(name)
        return settings.describe(choice, kind) if kind else GLOSSES.get(name, {}).get(choice, "")

    def check(self) -> bool:
        """Check and show the form, and stop a study of other settings. Return whether the form is valid."""
        self.unchecked = False
        for entry in self.query(Entry):
            if entry.editing:
                self.form.write(entry.name or "", entry.value)
        valid = self.form.check().resolved is not None
        if valid and self.form.config != self.findings.config:
            self.findings = self.findings.keep_valid(self.form.config)
        self.show()
        if valid and self._study is not None and self._study.findings.config != self.form.config:
            self._study.stop()
            self._study = None
        return valid

    def touch(self) -> None:
        """Record that the form changed, which cancels a pending launch."""
        self.touched = time.monotonic()
        self._launching = False
        self._set_waiting("")

    def on_descendant_focus(self) -> None:
        """Show the help text of the field with the focus, and remember the field as that of its step."""
        super().on_descendant_focus()
        if isinstance(self.focused, Entry):
            self._rows[self._current] = self.focused
        self._show_help()

    def action_panel(self, number: int) -> None:
        """Show a step, and focus the field that had the focus there; the first one if there is none."""
        row = self._rows.get(number)
        super().action_panel(number)
        if row is not None and row.display and row.is_attached:
            self.go(row)

    def action_move(self, step: int) -> None:
        """Move to another field or chart, in any panel."""
        stops = self.list_stops()
        index = stops.index(self.focused) + step if self.focused in stops else 0
        self.go(stops[index % len(stops)])

    def action_end(self, index: int) -> None:
        """Move to the first or the last field."""
        self.go(self.list_stops()[index])

    def action_scroll(self, step: int) -> None:
        """Scroll the fields and what stands beside them by a page."""
        for part in (*self.query("#main, #fields, #right"), self._sides[self._current]):
            part.scroll_relative(y=step * max(1, part.size.height - 1), animate=False)

    def go(self, widget: Widget) -> None:
        """Focus a field or chart, in any panel."""
        homes = {number: (self._panels[number], self._sides[number]) for number in PANELS}
        step = next(n for n, nodes in homes.items() if any(node in nodes for node in widget.ancestors))
        if step != self._current:
            self._current = step
            self._arrange()
            self.call_after_refresh(widget.scroll_visible, animate=False)
        self.set_focus(widget)

    # --- showing ----------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the form, its problems, and the equivalent command."""
        self._show_lines()
        for entry in self.query(Entry):
            self._show_entry(entry)
        form = self.form
        _show_problem(self.query_one("#wrong", PlainText), form.checked.problems.get(Form.ELSEWHERE, ""))
        command = "The command appears once all settings are valid."
        differences = "\n\n".join(form.list_problems())
        state = format_count(len(form.checked.problems), "problems")
        if form.checked.resolved is not None:
            command = form.format_command()
            differences = "\n".join(form.list_differences()) or "Nothing differs from the preset."
            count = len(form.checked.changes)
            state = format_count(count, "changes") if count else "unchanged preset"
        self.set_title(form.name, f"draft, {state}" if form.list_overrides() else state)
        self._show_offer()
        self.query_one("#command", PlainText).update(command)
        self.query_one("#differences", PlainText).update(differences)
        self.show_findings()
        self._show_steps()
        self._show_help()

    def _show_outdated(self) -> None:
        """Say where the page shows the last valid settings, because the current ones have a problem."""
        outdated = bool(self.form.checked.problems)
        # The side of the last step names the problems instead.
        self.query_one("#outdated", PlainText).display = outdated and self._current != LAUNCH
        note = ", as last valid" if outdated else ""
        self._others.border_title = f"The other steps{note}"
        total, repeats = self.findings.describe_total(), self.findings.config.repeats
        of_what = f" of {repeats} repeats" if repeats > 1 else ""
        of_what = of_what if total else " on this machine"
        self._cost.border_title = f"Cost{note or of_what}{f': {total}' if total else ''}"

    def _show_offer(self) -> None:
        """Offer the preset for the chosen data set, where the current one was tuned for another."""
        form, text = self.form, Text()

        def click(action: str) -> Style:
            return Style(meta={"@click": f"screen.{action}"})

        if form.foreign_dataset:
            match = form.find_matching_preset()
            foreign = escape_control_characters(form.foreign_dataset)
            text.append(f"{foreign} is not what preset {form.preset} was tuned for. ")
            if match:
                text.append(f"Use {match}?\n").append("F2 use it", click("use_match")).append("   ")
            text.append("F3 keep my settings", click("keep_settings"))
        offer = self.query_one("#offer", PlainText)
        offer.update(text)
        offer.display = bool(text.plain)

    def _show_steps(self) -> None:
        """Show the bar of steps with their problems, and the main settings of those that are not visible."""
        form, narrow = self.form, self.has_class("-narrow")
        bar = Text(" ", no_wrap=True, end="")
        others = RichTable.grid(expand=True)
        others.add_column(no_wrap=True)
        others.add_column(ratio=1)
        for number, name in PANELS.items():
            is_current = number == self._current
            problem_mark = " !" if form.count_problems(number) else ""
            label = f"{number} {name}" if is_current or not narrow else str(number)
            text = f"[{label}{problem_mark}]" if is_current else f" {label}{problem_mark} "
            click = Style(meta={"@click": f"screen.panel({number})"})
            bar.append(text, click + Style(bold=is_current, reverse=is_current)).append(" ")
            if not is_current:
                summary = Text(
                    escape_control_characters(form.summarise(number)),
                    click,
                    no_wrap=number not in (BACKBONE, BUDGET),  # the longest ones
                    overflow="ellipsis",
                )
                others.add_row(Text(f" {number} {name:<9}{problem_mark:>2} ", click), summary)
        problems = len(form.checked.problems)
        if problems and not narrow:
            bar.append(f"  ! {format_count(problems, 'problems')}", "bold")
        self.query_one("#steps", PlainText).update(bar, layout=False)
        self._others.update(others, layout=False)

    def _show_lines(self) -> None:
        """Show the free lines that have a text, and one empty line after them."""
        lines = [entry for entry in self.query(Entry) if (entry.name or "").startswith("line ")]
        wanted = len(self.form.lines) + (1 if not self.form.lines or self.form.lines[-1].strip() else 0)
        for number in range(len(lines), wanted):
            self.query_one(f"#fields{LAUNCH}").mount(self._make_line(number))
        for entry in lines[wanted:]:
            entry.remove()

    def _show_entry(self, entry: Entry) -> None:
        self._show_value(entry)
        name = entry.name or ""
        problem = self.form.checked.problems.get(name, "")
        problem_line = self._problem_lines.get(name)
        if problem and problem_line is None:
            problem_line = self._problem_lines[name] = PlainText(classes="error")
            self.query_one(f"#{entry.parent.id}").mount(problem_line, after=entry)  # type: ignore[union-attr]
        if problem_line is not None:
            _show_problem(problem_line, problem)

    def _show_value(self, entry: Entry) -> None:
        name, checked = entry.name or "", self.form.checked
        if name in FIELDS:
            field = FIELDS[name]
            entry.display = self.form.applies(field)
            mark = "*" if name in checked.changes or name in self.form.texts else " "
            value, note = self.form.shown(field), field.none
        else:
            number = int(name.split()[-1])
            value = self.form.lines[number] if number < len(self.form.lines) else ""
            mark, note = " ", "any setting"
        entry.show(entry.value if entry.editing else value, note, "!" if name in checked.problems else mark)

    def _show_help(self) -> None:
        """Show what the field with the focus is for, and where its value comes from; or a pending launch."""
        entry = self.focused
        if self._waiting:
            self._show_help_text(self._waiting)
            return
        if not isinstance(entry, Entry) or not self.is_mounted:
            return
        field = FIELDS.get(entry.name or "")
        if field is None:
            text = "any setting by its key, as --set takes it, such as recover.clamp=false"
        else:
            text = f"{field.key}: {field.help} ({self.form.origins.get(field.key, 'default')})"
            if field.key in self.form.checked.before:
                before = field.text(self.form.checked.before[field.key]) or field.none or "none"
                restoring = "" if entry.editing else ", backspace restores it"
                text = f"{field.key}: {field.help} · preset: {before}{restoring}"
        if field is not None and self.has_class("-narrow"):
            text = text.removeprefix(f"{field.key}: ")
        if entry.is_cut and not entry.editing:
            text = f"{entry.value} · {text}"
        self._show_help_text(text)

    def _show_help_text(self, text: str) -> None:
        """Show a text above the keys, on two lines if it needs them and the terminal is not short.

        The number of lines stays the same while a field is edited, so that nothing moves.
        """
        line, width = self.query_one("#told", PlainText), self.app.size.width
        if not (isinstance(self.focused, Entry) and self.focused.editing):
            needs_two = cell_len(text) >= width and not self.has_class("-short")
            line.styles.height = 2 if needs_two else 1
            if self.focused is not None:  # a longer text leaves fewer lines for the fields
                self.call_after_refresh(self.focused.scroll_visible, animate=False)
        line.update(text, layout=False)

    def show_findings(self) -> None:
        """Show what is known of the configuration, at the side of every panel."""
        from cfm_tui.console.widgets.images import Thumbnails

        findings = self.findings
        download = self._fetch.progress_text if self._fetch is not None else ""
        self.query_one("#data", PlainText).update(_link_keys(findings.describe_data(download)))
        self.query_one("#backbone", PlainText).update(findings.describe_backbone())
        self.query_one("#budget", PlainText).update(findings.describe_budget())
        self._show_outdated()
        self._cost.update(_link_keys(findings.describe_estimate()))
        sets = "\n".join(f"{each.name:<14}{describe_location(each)}" for each in findings.sets)
        self.query_one("#sets", PlainText).update(f"\n{sets}" if sets else "")
        samples = self.query_one("#samples", Thumbnails)
        preview = findings.look
        samples.display = preview is not None
        if preview is not None:
            names = [preview.classes[int(label)] for label in preview.labels_M]
            samples.show_images(list(preview.samples_MCSS), names, size=8)
        self.show_curves()

    def show_curves(self) -> None:
        """Plot β_b as the form sets it, and the filters' responses."""
        from cfm_tui.console.widgets.chart import Chart
        from cfm_tui.display.charts import Line

        findings, spectra = self.findings, self.findings.spectra or {}
        name, x, y = findings.compute_betas()
        self.query_one("#betas", Chart).plot([Line(name, x, y)], title=name, x_label="b")
        title, eigenvalues = "f(λ)", None
        if spectra:
            title, eigenvalues = list(spectra.items())[self.chosen_layer % len(spectra)]
        lines, label = findings.compute_responses(eigenvalues)
        if not findings.config.optimises:
            title = "no filter: nothing is optimised"
        self.query_one("#responses", Chart).plot(lines, title=title, x_label=label)

    def csv(self) -> str:
        """Return the data of the chart with the focus as CSV, or else of β_b."""
        from cfm_tui.console.widgets.chart import Chart

        focused = self.focused
        return (focused if isinstance(focused, Chart) else self.query_one("#betas", Chart)).csv()

    # --- studies and downloads --------------------------------------------------------------------

    def tick(self) -> None:
        """Check new text, show new findings, and start what is due."""
        if not self.query("#told"):  # the page is being removed
            return
        if self.unchecked:
            self.check()
        if self._study is not None and self._study.findings is not self.findings:
            self._take(self._study.findings)
        if self._fetch is not None:
            self._follow_download(self._fetch)
        self._start_due_study()
        if self._launching:
            self._try_launch()

    def _take(self, findings: Findings) -> None:
        if findings.trouble is not None and self.findings.trouble is None:
            self.host.report_error(findings.trouble)
        self.findings = findings
        self.show_findings()

    def _start_due_study(self) -> None:
        """Locate the data after a short pause in typing; after a longer one, start a trial of small data."""
        busy = self._study is not None and self._study.is_alive()
        if busy or self.form.checked.resolved is None or self.unchecked:
            return
        quiet = time.monotonic() - self.touched
        if self.findings.possible is None and self.findings.trouble is None and quiet >= self.QUIET_SECONDS:
            self._start_study(far=False)
        tried = self._study is not None and self._study.far
        if self.findings.small and not tried and self._can_try() and quiet >= self.STILL_SECONDS:
            self._start_study(far=True)

    def _can_try(self) -> bool:
        """Return whether this process computes no run; a trial changes global settings of PyTorch."""
        session = self.host.session
        return session is None or not session.live

    def _start_study(self, *, far: bool) -> None:
        from engine.store import runs_folder

        if self._study is not None:
            self._study.stop()
        self._study = Study(self.form.config, self.findings, self.host.runs or runs_folder(), far=far)
        self._study.start()

    def _follow_download(self, fetch: Fetch) -> None:
        self.query_one("#data", PlainText).update(self.findings.describe_data(fetch.progress_text))
        if fetch.is_alive():
            return
        self._fetch = None
        if fetch.problem is not None:
            self.host.report_error(fetch.problem)
        elif fetch.done:
            self.notify(f"{fetch.set} is downloaded")
        self.findings = Findings(self.form.config)
        self._study = None
        self.show_findings()

    def action_estimate(self) -> None:
        """Start the full study now."""
        if not self._require_valid():
            return
        if not self._can_try():
            self.notify("a run is computed in this console; no trial runs beside it", severity="warning")
        elif self._study is None or not (self._study.far and self._study.is_alive()):
            self._start_study(far=True)

    def action_download(self) -> None:
        """Download the data set, unless it exists."""
        chosen = self.findings.chosen
        if self._fetch is not None or chosen is None or self.host.refuse_if_read_only("download"):
            return
        if self.findings.possible or not chosen.download_bytes:
            self.notify(f"{chosen.name}: {describe_location(chosen)}")
            return
        self._fetch = Fetch(chosen.name, self.form.config.data.root)
        self._fetch.start()

    def action_layer(self) -> None:
        """Plot the responses on the next layer's spectrum."""
        self.chosen_layer += 1
        self.show_curves()

    # --- presets and the command line -------------------------------------------------------------

    def action_preset(self) -> None:
        """Choose the preset to start from: by data set, images per class and backbone."""
        offers: list[Offer] = []
        for dataset, presets in groupby(list_presets(), lambda each: each.dataset):
            offers.append(Offer(f"— {dataset or 'cannot be used'}", barred=True))
            for each in presets:
                columns = () if each.problem else (f"{each.ipc:>3}/class", each.backbone)
                note = each.problem or each.description
                offers.append(Offer(each.name, note, barred=bool(each.problem), columns=columns))
        self.app.push_screen(Pick("Start from which preset?", offers, self.form.preset), self._choose_preset)

    def action_use_match(self) -> None:
        """Start from the preset for the chosen data set."""
        match = self.form.find_matching_preset()
        if match is None:
            raise SkipAction
        self.touch()
        self.form.adopt(match)
        self.check()

    def action_keep_settings(self) -> None:
        """Keep the settings of a preset for another data set."""
        if not self.form.foreign_dataset:
            raise SkipAction
        self.form.accept_foreign_dataset()
        self._show_offer()

    def _choose_preset(self, name: str | None) -> None:
        if name is None:
            return
        if not self.form.list_overrides():
            self._start_from(name, keep=False)
            return
        answers = [("drop", "discard the changes"), ("keep", "take the changes over to the new preset")]
        overrides, room = self.form.list_overrides(), max(self.app.size.height - 9, 1)
        width = min(self.app.size.width, 76) - 6
        lines = [f"  {line if len(line) < width else line[: width - 1] + '…'}" for line in overrides[:room]]
        if more := len(overrides) - len(lines):
            lines.append(f"  … and {more} more")
        listed = "\n".join([f"{len(overrides)} changed here:", *lines, f"Start from {name}:"])
        question = Choice(listed, answers)
        self.app.push_screen(question, lambda a: self._start_from(name, keep=a == "keep") if a else None)

    def _start_from(self, name: str, *, keep: bool) -> None:
        self.touch()
        self.form.start(name, keep=keep)
        self.check()

    def action_write(self) -> None:
        """Ask for a name, and save the form as a preset."""
        if self._require_valid() and not self.host.refuse_if_read_only("save"):
            self.app.push_screen(Question("Name of the preset to save:"), self._save)

    def _save(self, name: str | None, replace: bool = False) -> None:
        from engine.config import settings

        name = (name or "").strip()
        if not name:
            return
        if not replace and any(preset.name == name for preset in settings.user_presets()):
            answers = [("no", "no, leave it"), ("yes", "yes, replace it")]
            question = Choice(f"The preset {name} already exists. Replace it?", answers)
            self.app.push_screen(question, lambda answer: self._save(name, True) if answer == "yes" else None)
            return
        try:
            self.form.save(name, replace=replace)
        except UserError as error:
            self.host.report_error(error)
            return
        self.notify(f"saved; {quote_command('run', preset=name)} runs it")
        self.show()

    def action_copy(self) -> None:
        """Copy the command to the clipboard, and show it for terminals without one."""
        if not self._require_valid():
            return
        command = self.form.format_command()
        self.app.copy_to_clipboard(command)
        self.notify(command, title="copied", timeout=10)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Run the action of the button's key."""
        getattr(self, f"action_{event.button.name}")()

    # --- launching --------------------------------------------------------------------------------

    def action_launch(self) -> None:
        """Start the run, unless the form has a problem; ask first if the preset is for another data set."""
        if self.host.refuse_if_read_only("launch") or not self._require_valid():
            return
        form = self.form
        match = form.find_matching_preset()
        if match is None:
            self._begin_launch("keep")
            return
        answers = [
            ("use", f"use {match}, then look at it again"),
            ("keep", "keep my settings, and launch"),
        ]
        question = f"{form.foreign_dataset} is not what preset {form.preset} was tuned for."
        self.app.push_screen(Choice(question, answers), self._begin_launch)

    def _begin_launch(self, answer: str | None) -> None:
        if answer == "use":
            self.action_use_match()
        elif answer == "keep":
            self._launching = True
            self._try_launch()

    def _require_valid(self) -> bool:
        """Return whether the form is valid; if not, show the first problem, and focus its field."""
        if self.check():
            return True
        name, problem = next(iter(self.form.checked.problems.items()))
        self._show_refusal(problem)
        if name != Form.ELSEWHERE:
            self.go(self.find_entry(name))
        return False

    def _show_refusal(self, problem: str) -> None:
        self.notify(problem, title="not yet", severity="error", timeout=10)

    def _try_launch(self) -> None:
        """Launch once it is known that data and teacher exist; ask first if the machine looks too small."""
        findings = self.findings
        if findings.possible is None and findings.trouble is None:
            if self._study is None:
                self._start_study(far=False)
            self._set_waiting("launches once data set and teacher are found …  (any change cancels)")
            return
        self._launching = False
        self._set_waiting("")
        if findings.problem is not None:
            self._show_refusal(findings.problem.message)  # the page shows its hint
            self.action_panel({"data": DATA, "teacher": BACKBONE}.get(findings.problem.kind, BUDGET))
        elif findings.short:
            answers = [("no", "no, back to the form"), ("yes", "yes, launch it")]
            self._ask_before_launch(f"This machine may not suffice: {findings.short}. Launch?", answers)
        elif (findings.total_seconds or 0) > self.LONG_SECONDS:
            answers = [("yes", "yes, launch it"), ("no", "no, back to the form")]
            self._ask_before_launch(f"This run takes {findings.describe_total()}. Launch?", answers)
        else:
            self._launch()

    def _ask_before_launch(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        """Ask a question, whose first answer is that of Enter."""
        choice = Choice(question, answers)
        self.app.push_screen(choice, lambda answer: self._launch() if answer == "yes" else None)

    def _set_waiting(self, text: str) -> None:
        """Show what a pending launch waits for."""
        if text != self._waiting:
            self._waiting = text
            self._show_help()

    def _launch(self) -> None:
        if self._study is not None:
            self._study.stop()
        self.post_message(Launch(self.form.checked.resolved, self.form.name))


def _link_keys(text: str) -> Text:
    """Return a text in which a click on a line `d: …` or `v: …` does what the key does."""
    linked = Text()
    for line in escape_control_characters(text).splitlines(keepends=True):
        action = {"d: ": "download", "v: ": "estimate"}.get(line[:3])
        linked.append(line, Style(meta={"@click": f"screen.{action}"}) if action else "")
    return linked


def _show_problem(line: PlainText, problem: str) -> None:
    line.update(f"! {problem}" if problem else "")
    line.display = bool(problem)
