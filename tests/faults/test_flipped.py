"""A byte is flipped in a file of a run, or of the cache: it is noticed and named, and never silently used.

Passed over: `lock`, which is empty and only locked; `log.txt`, free text that nothing reads but people;
`control/`, whose files live for half a second.
"""

import random
import shutil

import pytest
import tiny
from cases import how_many
from commandline import main
from cut import differing, emptied, pulled, rest

from engine import store
from engine.errors import UserError
from engine.events import STAGES
from engine.store import checkpoints, images, lock, rows

PASSED_OVER = {"lock", "log.txt"}
NAMES = ("finished", "finished without results", *STAGES)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(lock.Heartbeat, "THREAD", False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, and runs as they lie when their process dies late in each of the stages, by name."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.Heartbeat, "THREAD", False)
        events = pulled(place / "finished").events
        found = {"finished": place / "finished"}
        for stage in STAGES:
            found[stage] = rest(place / stage, last_of(events, stage))
        found["finished without results"] = rest(place / "without", len(events))
    return found


def last_of(events, stage):
    """After how many events a run dies: two before the stage's end, so that it has its checkpoints."""
    within = [
        number for number, event in enumerate(events, start=1) if getattr(event, "stage", None) == stage
    ]
    return within[-2]


def places(folder, count, seed):
    """So many places: each file in turn, a byte of it by chance."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path.relative_to(folder) for path in files if path.name not in PASSED_OVER]
    rng = random.Random(seed)
    rng.shuffle(files)
    for number in range(count):
        path = files[number % len(files)]
        yield path, rng.randrange((folder / path).stat().st_size), 1 << rng.randrange(8)


def flip(path, at, bits):
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)


def unwritten(path, at):
    """Whether a place in an unfinished table belongs to a row that is not there yet."""
    if path.suffix != ".partial":
        return False
    table = rows.Rows(path)
    kept = (table.damaged_rows() or [table.count])[0]
    for part in table.header.parts.values():
        if part.start <= at < part.start + part.size:
            return (at - part.start) // (part.size // table.count) >= kept
    return False


def unread(run, name):
    """Whether no resume needs a file: who had the run before, what it looked like, an older checkpoint."""
    stage, _, number = name.removeprefix("checkpoints/").removesuffix(".safetensors").partition("-")
    known = [count for count, _ in checkpoints.Checkpoints(run / "checkpoints").paths(stage)]
    spare = name.startswith("checkpoints/") and int(number or 0) in known[:-1]
    return spare or name.startswith(("owner.json", "glimpse.safetensors", "previews.safetensors"))


def cfm(capsys, *words):
    """What a command says, and its exit code; it ends in words whatever it finds."""
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return "".join(capsys.readouterr()), left.value.code


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte(quick_folder, tally, runs, capsys, name):
    whole = tiny.outcome(runs["finished"])
    source = runs[name]
    for path, at, bits in places(source, how_many(6, 200), seed=NAMES.index(name)):
        folder = emptied(quick_folder / "case")
        shutil.copytree(source, folder, dirs_exist_ok=True)
        empty = unwritten(folder / path, at)
        needless = unread(folder / "run", path.relative_to(path.parts[0]).as_posix())
        flip(folder / path, at, bits)
        if path.parts[0] == "cache":
            why = made_anew(folder, path, whole)
        else:
            why = named(folder / "run", folder / path, capsys, empty)
            why = why or taken_up(folder, path, whole, empty or needless)
        tally("a flipped byte", not why, f"{name}: {path}, byte {at}: {why[:300]}")
    tally.done()


def made_anew(folder, path, whole):
    """What is wrong with how a damaged artefact is taken: it is made anew and told, where it is read."""
    run = folder / "run"
    done = {"teachers": store.StoredRun(run).results() is not None}
    done["statistics"] = store.StoredRun(run).has_images()
    told = pulled(folder)
    if told.error is not None:
        return f"it ended with {told.error!r}"
    if done[path.parts[1]]:
        names = [name for name in differing(folder, whole) if name != path.as_posix()]
    elif not any(path.name in warning for warning in told.warnings):
        return f"it was read and not told: {told.warnings}"
    else:
        names = [name for name in differing(folder, whole) if not name.endswith(".damaged")]
    return f"other outcome: {names}" if names else ""


def named(run, target, capsys, empty):
    """What is wrong with what readers say of a flipped byte; empty for nothing."""
    damage = store.verify_run(run)
    here = [line for line in damage if str(target) in line]
    if bool(here) == empty:
        return f"check says {damage}"
    others = [line for line in damage if line not in here]
    if target.name == "journal.jsonl":  # it is what vouches for the numbers
        others = [line for line in others if "metrics/recover.f32: rows" not in line]
    if others:
        return f"check names others: {others}"
    said, code = cfm(capsys, "check", run)
    if code != (1 if damage else 0) or any(line not in said for line in damage):
        return f"cfm check says {code}: {said}"
    vital = target.name in ("manifest.json", "config.yaml", "status.json", "results.json")
    said, code = cfm(capsys, "runs", "--folder", run.parent)
    if code or ("damaged" in said) != vital:
        return f"cfm runs says {code}: {said}"
    shown = vital or target == run / "images" / images.TENSORS
    said, code = cfm(capsys, "show", run)
    if "Traceback" in said or ("damaged" in said) != shown or (code and not shown):
        return f"cfm show says {code}: {said}"
    return ""


def taken_up(folder, path, whole, spare):
    """What is wrong with a resume. It refuses and names the file, or has the same outcome and tells of it.

    Where it does not read the file, the damage stays for `cfm check` to name. spare: nobody is to read
    the place any more, or nothing is there yet.
    """
    target, name = folder / path, path.relative_to("run").as_posix()
    told = pulled(folder)
    if told.error is not None:
        refused = isinstance(told.error, UserError) and str(target) in told.error.message
        return "" if refused else f"it ended with {told.error!r}"
    warned = any(target.name in warning for warning in told.warnings)
    stays = any(str(target) in line for line in store.verify_run(folder / "run"))
    if not (warned or stays or spare):
        return f"it was used without a word: {told.warnings}"
    names = differing(folder, whole)
    if warned or stays:
        vouched = ["metrics/recover.f32"] if name == "journal.jsonl" else []
        names = [other for other in names if other not in [name, *vouched]]
    return f"other outcome: {names}, {told.warnings}" if names else ""
