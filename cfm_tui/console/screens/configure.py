"""A new experiment: written as a form over a preset, looked at beforehand, launched."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Button, Static

from cfm_tui.console import experiment_text
from cfm_tui.console.engine_link import Launch
from cfm_tui.console.fields import BACKBONE, BUDGET, DATA
from cfm_tui.console.form import ELSEWHERE
from cfm_tui.console.preflight import Fetch, Findings, Study
from cfm_tui.console.screens.dialogs import Choice, Question
from cfm_tui.console.screens.formpage import FormPage
from cfm_tui.console.screens.picking import Offer, Pick
from engine.errors import UserError

QUIET_SECONDS = 0.4  #: since the last letter, until it is looked where the data are
STILL_SECONDS = 2.0  #: until steps are tried unasked


class ConfigurePage(FormPage):
    """The form of a new experiment. preset: what it begins with; None for the one that `cfm run` takes."""

    HEADING = "New experiment"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "launch", "launch", id="configure.launch", tooltip="Begin the run here"),
        Binding("p", "preset", "preset", id="configure.preset", tooltip="Begin from another preset"),
        Binding("w", "write", "save as preset", id="configure.write", tooltip="Save it as a preset of yours"),
        Binding(
            "c", "copy", "copy", id="configure.copy", tooltip="Copy the `cfm run` command that does the same"
        ),
        Binding(
            "v",
            "estimate",
            "estimate",
            id="configure.estimate",
            tooltip="Read the images and try a few steps now",
        ),
        Binding(
            "d", "download", "download", show=False, id="configure.download", tooltip="Fetch the data set"
        ),
        Binding("s", "layer", "layer", show=False, id="configure.layer", tooltip="The next layer's spectrum"),
    ]

    def __init__(self, preset: str | None = None) -> None:
        super().__init__(preset)
        self._study: Study | None = None
        self._fetch: Fetch | None = None
        self._launching = False

    def on_unmount(self) -> None:
        """Nobody looks at what is found out any more."""
        for work in (self._study, self._fetch):
            if work is not None:
                work.stop()

    def touch(self) -> None:
        """What was to be launched is not what is written now."""
        super().touch()
        self._launching = False

    def check(self) -> bool:
        """Also, what is being found out is of use only for what it began with."""
        right = super().check()
        if right and self._study is not None and self._study.findings.config != self.form.config:
            self._study.stop()
            self._study = None
        return right

    def fetching(self) -> str:
        """What is being downloaded, if anything is."""
        return self._fetch.told if self._fetch is not None else ""

    # --- finding out ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Check what was typed; show what was found out; begin to find out."""
        if not self.query("#told"):  # the page is being taken down
            return
        if self.unchecked:
            self.check()
        if self._study is not None and self._study.findings is not self.findings:
            self._take(self._study.findings)
        if self._fetch is not None:
            self._follow(self._fetch)
        self._begin()
        if self._launching:
            self._try_launch()

    def _take(self, findings: Findings) -> None:
        if findings.trouble is not None and self.findings.trouble is None:
            self.host.trouble(findings.trouble)
        self.findings = findings
        self.show_findings()

    def _begin(self) -> None:
        """Look where the data are; where the form is left alone, also at what is in them."""
        busy = self._study is not None and self._study.is_alive()
        if busy or self.form.checked.resolved is None or self.unchecked:
            return
        quiet = time.monotonic() - self.touched
        if self.findings.possible is None and self.findings.trouble is None and quiet >= QUIET_SECONDS:
            self._find_out(far=False)
        tried = self._study is not None and self._study.far
        if self.findings.small and not tried and self._alone() and quiet >= STILL_SECONDS:
            self._find_out(far=True)

    def _alone(self) -> bool:
        """Whether no run is computed here: a trial's settings of torch are the whole process's."""
        session = self.host.session
        return session is None or not session.live

    def _find_out(self, *, far: bool) -> None:
        from engine.store import runs_folder

        if self._study is not None:
            self._study.stop()
        self._study = Study(self.form.config, self.findings, self.host.runs or runs_folder(), far=far)
        self._study.start()

    def _follow(self, fetch: Fetch) -> None:
        self.query_one("#data", Static).update(experiment_text.data(self.findings, fetch.told))
        if fetch.is_alive():
            return
        self._fetch = None
        if fetch.problem is not None:
            self.host.trouble(fetch.problem)
        elif fetch.done:
            self.notify(f"{fetch.set} is there")
        self.findings = Findings(self.form.config)
        self._study = None
        self.show_findings()

    def action_estimate(self) -> None:
        """Find out everything now."""
        if not self.check():
            self._refuse()
        elif not self._alone():
            self.notify("a run is computed here; nothing is tried beside it", severity="warning")
        elif self._study is None or not (self._study.far and self._study.is_alive()):
            self._find_out(far=True)

    def action_download(self) -> None:
        """Fetch the data set, if it is not there."""
        chosen = self.findings.chosen
        if self._fetch is not None or chosen is None or self.host.refused("download"):
            return
        if self.findings.possible or not chosen.download_bytes:
            self.notify(f"{chosen.name}: {experiment_text.where(chosen)}", markup=False)
            return
        self._fetch = Fetch(chosen.name, self.form.config.data.root)
        self._fetch.start()

    def action_layer(self) -> None:
        """Another layer's spectrum."""
        self.chosen_layer += 1
        self.show_curves()

    # --- presets and the command line -------------------------------------------------------------

    def action_preset(self) -> None:
        """Choose what to begin from."""
        from engine.config import settings

        offers = [Offer(name, settings.describe(name)) for name in settings.preset_names()]
        for own in settings.own_presets():
            note = f"cannot be used: {own.problem}" if own.problem else f"yours: {own.description}"
            offers.append(Offer(own.name, note, barred=bool(own.problem)))
        self.app.push_screen(Pick("Begin from which preset?", offers, self.form.preset), self._from_preset)

    def _from_preset(self, name: str | None) -> None:
        if name is None:
            return
        if not self.form.sets():
            self._start(name, keep=False)
            return
        answers = [("drop", "drop what was changed here"), ("keep", "take it over to the new preset")]
        self.app.push_screen(
            Choice(f"{len(self.form.sets())} changed here. Begin from {name}:", answers),
            lambda answer: self._start(name, keep=answer == "keep") if answer else None,
        )

    def _start(self, name: str, *, keep: bool) -> None:
        self.touch()
        self.form.start(name, keep=keep)
        self.check()

    def action_write(self) -> None:
        """Ask for a name, and save it as a preset."""
        if not self.check():
            self._refuse()
        elif not self.host.refused("save"):
            self.app.push_screen(Question("Save as which preset of yours?"), self._save)

    def _save(self, name: str | None, replace: bool = False) -> None:
        from engine.config import settings

        name = (name or "").strip()
        if not name:
            return
        if not replace and any(own.name == name for own in settings.own_presets()):
            answers = [("no", "no, leave it"), ("yes", "yes, replace it")]
            self.app.push_screen(
                Choice(f"There is a preset {name} already. Replace it?", answers),
                lambda answer: self._save(name, True) if answer == "yes" else None,
            )
            return
        try:
            self.form.save(name, replace=replace)
        except UserError as error:
            self.host.trouble(error)
            return
        self.notify(f"saved; `cfm run --preset {name}` runs it", markup=False)
        self.show()

    def action_copy(self) -> None:
        """The command to the clipboard, and on screen where there is none."""
        if not self.check():
            self._refuse()
            return
        command = self.form.command()
        self.app.copy_to_clipboard(command)
        self.notify(command, title="copied", timeout=10, markup=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """As the key that it names."""
        work: dict[str | None, Any] = {
            "launch": self.action_launch,
            "write": self.action_write,
            "copy": self.action_copy,
        }
        work[event.button.name]()

    # --- launching --------------------------------------------------------------------------------

    def action_launch(self) -> None:
        """Begin the run, unless something is wrong."""
        if self.host.refused("launch"):
            return
        if not self.check():
            self._refuse()
            return
        self._launching = True
        self._try_launch()

    def _refuse(self) -> None:
        """Say what is wrong, and go there."""
        name, problem = next(iter(self.form.checked.problems.items()))
        self.notify(problem, title="not yet", severity="error", timeout=10, markup=False)
        if name != ELSEWHERE:
            self.go(self.entry(name))

    def _try_launch(self) -> None:
        """Once it is known whether data and teacher are there."""
        found = self.findings
        if found.possible is None and found.trouble is None:
            if self._study is None:
                self._find_out(far=False)
            return
        self._launching = False
        if found.problem is not None:
            self.notify(
                f"{found.problem.message}\n→ {found.problem.hint}",
                title="not yet",
                severity="error",
                timeout=10,
                markup=False,
            )
            self.action_panel({"data": DATA, "teacher": BACKBONE}.get(found.problem.kind, BUDGET))
        elif found.short:
            answers = [("no", "no, back to the form"), ("yes", "yes, launch it")]
            self.app.push_screen(
                Choice(f"This machine may not do: {found.short}. Launch?", answers),
                lambda answer: self._launch() if answer == "yes" else None,
            )
        else:
            self._launch()

    def _launch(self) -> None:
        if self._study is not None:
            self._study.stop()
        self.post_message(Launch(self.form.checked.resolved, self.form.preset))
