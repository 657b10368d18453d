"""Panel 1 of the monitor: the losses of recovery, of students or of the teacher."""

from __future__ import annotations

from typing import Literal, get_args

from cfm_tui.console.widgets.chart import Chart
from cfm_tui.console.widgets.showing import chart_colours, terminal_of
from cfm_tui.display import plot_data
from cfm_tui.display.run_state import RunModel
from engine.store.preview import Preview

Losses = Literal["recovery", "validate", "squeeze"]


class LossChart(Chart):
    """Losses by iteration or by epoch: those of the run's current stage, or those that were chosen."""

    def __init__(self) -> None:
        super().__init__(log=True, id="loss-chart")
        self._chosen: Losses | None = None

    def show_losses(self, model: RunModel, scrubbed: Preview | None) -> str:
        """Draw the losses, and return the panel's title. scrubbed: marked among the losses of recovery."""
        losses = self._chosen or _default_losses(model)
        if losses == "recovery":
            sections, mark = plot_data.batches(model), None
            if scrubbed is not None:
                mark = float((scrubbed.batch - 1) * model.iterations + scrubbed.iteration)
            lines = plot_data.losses(model)
            self.plot(lines, x_label="iteration", sections=sections, mark=mark, empty=_explain_absence(model))
            has_band = terminal_of(self.app).colours and chart_colours(self)  # drawn only in a faint colour
            raw = "faint: raw" if has_band else "smoothed"
            over = "" if self.screen.has_class("-narrow") else ", over all layers"
            return f"Loss of recovery{over} · {self._describe_axis()} · {raw}"
        lines = plot_data.training_losses(model, losses)
        self.plot(lines, x_label="epoch", empty=_explain_absence(model))
        over = "" if self.screen.has_class("-narrow") else ", mean over seeds"
        whose = f"students{over}" if losses == "validate" else "the teacher"
        return f"Loss of {whose} · {self._describe_axis()}"

    def choose_next(self, model: RunModel) -> None:
        """Choose the losses of recovery, students and teacher in turn."""
        choices = get_args(Losses)
        self._chosen = choices[(choices.index(self._chosen or _default_losses(model)) + 1) % len(choices)]

    def _describe_axis(self) -> str:
        return "log" if self.log_axis else "linear"


def _default_losses(model: RunModel) -> Losses:
    """Return the losses that fit the run's current stage."""
    stage = model.training_stage
    is_training = model.stage in ("squeeze", "validate") or model.layout is None
    return stage if stage is not None and is_training else "recovery"


def _explain_absence(model: RunModel) -> str:
    """Return why there are no losses to draw."""
    if model.is_underway:
        return "no losses yet"
    return "no losses: this run did not compute this stage, or ended before it; v shows those of other stages"
