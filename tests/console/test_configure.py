"""The form of a new experiment on screen: every field, key and preset."""

from __future__ import annotations

import pytest
from consoles import shown, until
from forms import Recorded, focused, opened, played, tell, write

from cfm_tui.console.engine_link import Configure
from cfm_tui.console.form import Form
from cfm_tui.console.preflight import Findings
from cfm_tui.console.screens.configure import ConfigurePage
from cfm_tui.console.screens.dialogs import Choice, Pick, Question
from cfm_tui.console.widgets.field import Entry
from engine.config import settings
from engine.runs.estimates import Estimate


def test_arrows_tab_and_letters_lead_from_field_to_field(place):
    async def script(pilot, page):
        stops = page.list_stops()
        names = [stop.name or stop.id for stop in stops]
        assert len(names) == len(set(names)) >= 28
        page.go(stops[0])
        for number, key in enumerate(("down", "tab", "j", "down", "tab", "j"), 1):
            await pilot.press(key)
            assert focused(page) is stops[number]
        for number, key in zip((5, 4, 3), ("up", "shift+tab", "k"), strict=True):
            await pilot.press(key)
            assert focused(page) is stops[number]
        await pilot.press("G")
        assert focused(page) is stops[-1]
        await pilot.press("down")
        assert focused(page) is stops[0]
        await pilot.press("up", "g")
        assert focused(page) is stops[0]

    played(opened(place), script)


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
def test_every_field_is_reached_and_seen(place, size):
    async def script(pilot, page):
        await pilot.press("right")  # an offered preset takes some of the room
        await until(pilot, "cifar10 is not")
        for stop in page.list_stops():
            assert focused(page) is stop
            if isinstance(stop, Entry):
                line = shown(pilot).splitlines()[stop.region.y]
                assert line[stop.region.x + 2 :].startswith(stop.label)
            await pilot.press("down")

    played(opened(place), script, size)


def test_what_is_wrong_stands_under_its_field_while_it_is_typed(place):
    async def script(pilot, page):
        await pilot.press("4", "down", "down", "down")
        await write(pilot, "-1")
        await until(pilot, "! recover.lr = -1 is out of range")
        lines = shown(pilot).splitlines()
        row = next(number for number, line in enumerate(lines) if "▸!image learning rate" in line)
        assert "! recover.lr = -1" in lines[row + 1]
        assert "1 problem" in lines[0]
        await pilot.press("escape")
        await until(pilot, "unchanged preset")
        assert "out of range" not in shown(pilot)

    played(opened(place), script)


def test_free_lines_set_everything_else(place):
    async def script(pilot, page):
        await pilot.press("5", "enter", *"recover.clamp=false", "enter", "down")
        assert focused(page).name == "line 1"
        await pilot.press("enter", *"recover.speed=1")
        await until(pilot, "unknown key 'recover.speed'")
        await pilot.press("enter")
        await write(pilot, "")
        await pilot.press("enter")
        assert page.form.config.recover.clamp is False
        assert page.form.format_command() == "cfm run --preset smoke --set recover.clamp=false"
        await until(pilot, "recover.clamp: true → false")

    played(opened(place), script)


def test_keys_are_offered_while_a_line_is_typed(place):
    async def script(pilot, page):
        await pilot.press("5", "enter", *"recover.cl")
        await pilot.pause(0.2)
        await pilot.press("right", *"false", "enter")
        assert "recover.cl" in page.form.lines[0]
        assert page.form.lines[0].endswith("=false")

    played(opened(place), script)


def test_fields_of_a_convnet_come_and_go(place):
    async def script(pilot, page):
        assert not page.find_entry("backbone.width").display
        page.go(page.find_entry("backbone.name"))
        await pilot.press("left")
        assert page.form.config.backbone.name == "convnet"
        assert page.find_entry("backbone.width").display

    played(opened(place, "cifar10-10"), script)


def test_the_environment_is_shown_and_may_be_wrong(place, monkeypatch):
    monkeypatch.setenv("CFM_IPC", "4")

    async def right(pilot, page):
        page.go(page.find_entry("ipc"))
        await until(pilot, "environment CFM_IPC")

    played(opened(place), right)
    monkeypatch.setenv("CFM_RECOVER__SPEED", "4")

    async def wrong(pilot, page):
        await until(pilot, "unknown key 'recover.speed'")
        await pilot.press("l")
        await until(pilot, "not yet")
        assert pilot.app.launched is None

    played(opened(place, kind=Recorded), wrong)


def test_the_curve_follows_what_is_typed(place):
    async def script(pilot, page):
        await pilot.press("3")
        await pilot.pause()
        before = shown(pilot)
        assert "f(λ)" in before
        page.go(page.find_entry("ipc"))
        await write(pilot, "50")
        await pilot.press("enter", "3")
        await until(pilot, "β_b of 50 batches")
        assert page.csv().count("\n") == 51
        page.go(page.query_one("#responses"))
        await pilot.pause()
        assert "at β_1 = 0.1" in page.csv()

    played(opened(place), script)


def test_another_preset_is_begun_from(place):
    async def script(pilot, page):
        await pilot.press("p")
        assert isinstance(pilot.app.screen, Pick)
        await pilot.press("G", "enter")
        last = "imagenet100"
        assert page.form.preset == last
        assert page.form.config == settings.resolve(preset=last, environ={"CFM_DATA_ROOT": "data"}).config
        await until(pilot, last)
        page.go(page.find_entry("ipc"))
        await write(pilot, "7")
        await pilot.press("enter", "p", "g", "enter")
        assert isinstance(pilot.app.screen, Choice)
        await pilot.press("t")
        assert (page.form.preset, page.form.config.ipc) == ("digits", 7)
        await pilot.press("p", "G", "enter", "d")
        assert (page.form.preset, page.form.texts) == (last, {})

    played(opened(place), script)


@pytest.mark.parametrize(("size", "seen"), [((80, 24), 3), ((40, 12), 3), ((40, 10), 1)])
def test_changes_are_listed_before_another_preset_discards_them(place, size, seen):
    async def script(pilot, page):
        page.form.texts = {"ipc": "7", "recover.lr": "0.5", "seed": "3"}
        page.check()
        page._choose_preset("digits")
        await until(pilot, "3 changed here:")
        lines = shown(pilot)
        changed = ("ipc=7", "recover.lr=0.5", "seed=3")
        assert [text in lines for text in changed] == [n < seen for n in range(3)]
        assert ("and 2 more" in lines) == (seen == 1)
        assert "discard the changes" in lines
        assert "take the changes over" in lines

    played(opened(place), script, size)


def test_saved_as_a_preset_and_read_back(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "7")
        await pilot.press("enter", "w")
        assert isinstance(pilot.app.screen, Question)
        await pilot.press(*"mine", "enter")
        await until(pilot, "mine  unchanged preset")
        assert settings.resolve(preset="mine").config.ipc == 7
        page.go(page.find_entry("ipc"))
        await write(pilot, "8")
        await pilot.press("enter", "w", *"mine", "enter")
        assert isinstance(pilot.app.screen, Choice)
        await pilot.press("n")
        assert settings.resolve(preset="mine").config.ipc == 7
        await pilot.press("w", *"mine", "enter", "y")
        assert settings.resolve(preset="mine").config.ipc == 8
        await pilot.press("w", *"digits", "enter")
        await until(pilot, "a preset named digits ships")
        await pilot.press("p", "g")
        await pilot.pause()
        lines = [" ".join(line.strip("│ ").split()) for line in shown(pilot).splitlines()]
        at = lines.index("* mine 8/class convnet")
        assert lines[at + 1].startswith("yours:")

    played(opened(place), script)


def test_the_command_is_shown_and_copied(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "7")
        await pilot.press("enter", "5", "c")
        await pilot.pause()
        assert pilot.app.clipboard == "cfm run --preset smoke --set ipc=7"
        assert "cfm run --preset smoke --set ipc=7" in shown(pilot)
        assert "ipc: 1 → 7" in shown(pilot)

    played(opened(place), script)


def test_buttons_do_what_their_keys_do(place):
    async def script(pilot, page):
        await pilot.press("5")
        await pilot.pause()
        await pilot.click("Button")
        await until(pilot, lambda: pilot.app.launched is not None)

    played(opened(place, kind=Recorded), script)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_bar_shows_all_steps_and_where_the_problems_are(place, size):
    async def script(pilot, page):
        page.go(page.find_entry("recover.lr"))
        await write(pilot, "-1")
        await pilot.press("enter", "2")
        await pilot.pause()
        bar = shown(pilot).splitlines()[1]
        steps = " ".join(bar.split())
        assert steps == "1 Data [2 Network] 3 Objective 4 Budget ! 5 Launch ! 1 problem"
        assert "*image learning rate" not in shown(pilot)
        assert await pilot.click("#steps", offset=(bar.index("4 Budget"), 0))
        await pilot.pause()
        assert "[4 Budget !]" in shown(pilot).splitlines()[1]
        assert focused(page).name == "recover.lr"

    played(opened(place), script, size)


def test_the_other_steps_are_summarised(place):
    async def script(pilot, page):
        await pilot.pause()
        assert "2 Network     convnet-16, train teacher" in shown(pilot)
        page.go(page.find_entry("ipc"))
        await write(pilot, "12")
        await pilot.press("enter", "1")
        await until(pilot, "12/class, 3 it")
        await pilot.press("4")
        await until(pilot, "120 images: 12 of each of 10 classes")

    played(opened(place), script)


def test_what_shows_the_last_valid_settings_says_so(place):
    async def script(pilot, page):
        await pilot.pause()
        assert "last valid" not in shown(pilot)
        page.go(page.find_entry("objective.beta"))
        await write(pilot, "0.05")
        await pilot.press("enter")
        page.go(page.find_entry("recover.lr"))
        await write(pilot, "-1")
        await pilot.press("enter", "2")
        await until(pilot, "The other steps, as last valid")
        assert "! of the last valid settings:" in shown(pilot)
        assert "Cost, as last valid" in shown(pilot)
        assert "5 Launch      fix image learning rate" in shown(pilot)
        await pilot.press("5")
        await until(pilot, "4 Budget, image learning rate:")
        assert "! recover.lr = -1 is out of range" in shown(pilot)
        assert "! of the last valid settings:" not in shown(pilot)
        page.go(page.find_entry("recover.lr"))
        await pilot.press("backspace")
        await until(pilot, "Cost on this machine")
        assert "last valid" not in shown(pilot)
        await pilot.press("5")
        await until(pilot, "objective.beta: 0.1 → 0.05")

    played(opened(place, "digits"), script)


def test_help_says_what_the_preset_has(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "12")
        await until(pilot, "preset: 1")
        assert "backspace restores it" not in shown(pilot)
        await pilot.press("enter")
        await until(pilot, "preset: 1, backspace restores it")
        await pilot.press("backspace")
        await until(pilot, "ipc: images per class (preset digits)")

    played(opened(place), script)


def test_the_footer_has_the_keys_of_editing_and_stays_in_place(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.schedule.beta_min"))
        await write(pilot, "0.01")
        await pilot.press("enter")
        for name in ("objective.schedule.beta_min", "recover.iterations", "data.root"):
            page.go(page.find_entry(name))
            await until(pilot, "⏎ edit")
            assert "esc back" in shown(pilot)
            top = page.query_one("#told").region.y
            await write(pilot, "0.02")
            await until(pilot, "⏎ keep   esc restore   F5 launch")
            assert not any(text in shown(pilot) for text in ("⏎ edit", "esc back", "p preset"))
            assert page.query_one("#told").region.y == top
            await pilot.press("escape")
        assert page.form.texts == {"objective.schedule.beta_min": "0.01"}

    played(opened(place, "digits"), script)


def test_every_step_keeps_its_row(place):
    async def script(pilot, page):
        await pilot.press("3", "down", "down", "4", "down", "3")
        assert focused(page).name == "objective.schedule.kind"
        await pilot.press("4")
        assert focused(page).name == "ipc"
        await pilot.press("2", "down", "1", "2")
        assert focused(page).name == "backbone.depth"
        page.form.write("backbone.name", "resnet18")  # which hides the depth
        page.check()
        await pilot.press("1", "2")
        assert focused(page).name == "backbone.name"
        await pilot.press("5", "enter", *"recover.clamp=false", "enter", "down", "1", "5")
        assert focused(page).name == "line 1"
        page.form.lines = []
        page.check()
        await pilot.pause()
        await pilot.press("1", "5")
        assert focused(page).name == "line 0"

    played(opened(place, "digits"), script)


def test_presets_are_listed_by_data_set(place):
    (place / "presets").mkdir()
    (place / "presets" / "mine.yaml").write_text("extends: cifar10-10\nipc: 20\n")
    (place / "presets" / "broken.yaml").write_text("[")

    async def script(pilot, page):
        await pilot.press("p")
        await pilot.pause()
        offers = pilot.app.screen._names
        assert offers.index("— cifar10") < offers.index("cifar10-10") < offers.index("mine")
        assert offers.index("mine") < offers.index("cifar10-50") < offers.index("— cifar100")
        assert offers[-2:] == ["— cannot be used", "broken"]
        assert "cifar10-10-convnet" in shown(pilot)
        assert "10/class  convnet   CIFAR-10" in shown(pilot)

    played(opened(place), script, (120, 40))


async def choose_cifar10(pilot, page):
    page.go(page.find_entry("data.name"))
    await pilot.press("right")
    await until(pilot, "cifar10 is not what preset smoke was")


def test_another_data_set_brings_its_preset(place):
    async def script(pilot, page):
        page.go(page.find_entry("device"))
        await write(pilot, "cpu")
        page.go(page.find_entry("ipc"))
        await write(pilot, "40")
        await pilot.press("enter")
        await choose_cifar10(pilot, page)
        assert "cifar10-50-convnet?" in shown(pilot)  # the nearest number of images per class
        await pilot.press("backspace")
        await pilot.pause()
        assert "tuned for" not in shown(pilot)
        await choose_cifar10(pilot, page)
        await pilot.press("f2")
        assert (page.form.preset, page.form.texts) == ("cifar10-50-convnet", {"device": "cpu"})
        assert page.form.config.ipc == 50
        await pilot.pause()
        assert "tuned for" not in shown(pilot)

    played(opened(place), script)


def test_settings_may_be_kept_for_another_data_set(place):
    async def script(pilot, page):
        await choose_cifar10(pilot, page)
        await pilot.press("f3")
        await pilot.pause()
        assert "tuned for" not in shown(pilot)
        assert page.form.preset == "smoke"
        assert page.form.config.data.name == "cifar10"

    played(opened(place), script)


def test_a_data_set_without_a_preset_is_named(place):
    async def script(pilot, page):
        page.go(page.find_entry("data.name"))
        await pilot.press("left")
        await until(pilot, "folder is not what preset smoke was")
        await pilot.press("f2")
        assert page.form.preset == "smoke"

    played(opened(place), script)


def test_a_draft_is_kept_while_the_console_is_open(place):
    async def script(pilot, page):
        page.go(page.find_entry("ipc"))
        await write(pilot, "7")
        await pilot.press("enter")
        page.go(page.find_entry("recover.lr"))
        await write(pilot, "-1")
        await pilot.press("enter", "escape", "n")
        await until(pilot, "smoke  draft, 1 problem")
        again = pilot.app.screen
        assert (again.find_entry("ipc").value, again.find_entry("recover.lr").value) == ("7", "-1")
        again.go(again.find_entry("recover.lr"))
        await pilot.press("backspace")
        await until(pilot, "draft, 1 change")
        await pilot.press("p", "g", "enter", "d")
        await until(pilot, "digits  unchanged preset")

    played(opened(place), script)


def test_the_page_stays_built_and_looks_anew_when_it_is_opened_again(place):
    async def script(pilot, page):
        estimate = Estimate({"recover": 60.0}, 10**9, 10**6, "from a few steps")
        tell(page, Findings(page.form.config, possible=True, estimate=estimate))
        await pilot.press("4", "down")
        at = focused(page).name
        await pilot.press("escape")
        await pilot.resize_terminal(60, 20)
        await pilot.press("n")
        assert pilot.app.screen is page
        assert focused(page).name == at
        await until(pilot, "images per class")
        assert page.findings.estimate is None
        assert "-single" in page.classes
        await until(pilot, lambda: page.findings.possible)  # located again
        await pilot.press("enter", "7")
        pilot.app.action_runs()
        await pilot.press("n")
        await until(pilot, "draft, 1 change")
        assert page.form.texts == {"ipc": "7"}

    played(opened(place), script, (120, 40))


def test_a_page_of_another_form_is_built_anew(place):
    async def script(pilot, page):
        await pilot.press("escape")
        await pilot.app.on_configure(Configure(Form("digits", {})))
        await until(pilot, "digits  unchanged preset")
        assert pilot.app.screen is not page
        assert not page.is_attached

    played(opened(place), script)


def test_choices_are_explained(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.signal"))
        await pilot.press("enter")
        await until(pilot, "the mean features of each class")

    played(opened(place), script)


def test_long_explanations_have_two_lines_and_budgets_are_whole(place):
    async def script(pilot, page):
        page.go(page.find_entry("objective.schedule.per"))
        await pilot.pause(0.1)
        told = page.query_one("#told")
        assert told.size.height == 2
        assert "β_b changes after a round of all classes, or each batch" in " ".join(shown(pilot).split())
        assert f"({page.form.origins['objective.schedule.per']})" in shown(pilot)
        assert "epochs" in shown(pilot).split("4 Budget")[-1]
        page.go(page.find_entry("objective.ce"))
        await pilot.pause(0.1)
        assert told.size.height == 1

    played(opened(place, "digits"), script)


def test_what_is_shown_of_other_steps_and_as_a_key_is_clicked(place, monkeypatch):
    estimated = []
    monkeypatch.setattr(ConfigurePage, "action_estimate", lambda page: estimated.append(page))
    monkeypatch.setattr(ConfigurePage, "_start_due_study", lambda page: None)

    async def script(pilot, page):
        await pilot.pause(0.1)
        await pilot.click("#others", offset=(4, 3))
        await until(pilot, "[4 Budget]")
        await pilot.click("#cost", offset=(4, 1))
        assert estimated == [page]
        write = page.find_entry("data.name")
        page.go(write)
        write.value = "cifar10"
        page.take_entry(write, final=True)
        await until(pilot, "F2 use it")
        await pilot.click("#offer", offset=(3, page.query_one("#offer").size.height - 1))
        await until(pilot, lambda: page.form.preset.startswith("cifar10"))

    played(opened(place, "digits"), script)
