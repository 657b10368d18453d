"""Nothing in the store changes the disk but through the one object that a test can replace."""

import ast
from pathlib import Path

import pytest

from engine import store
from engine.store import files

FOLDER = Path(store.__file__).parent
# The files of locks hold nothing that a power loss could harm: a lock ends with its process.
MODULES = sorted(path for path in FOLDER.glob("*.py") if path.name not in ("files.py", "lock.py"))
OS_CALLS = {
    *("open", "write", "pwrite", "writev", "sendfile", "fsync", "fdatasync", "replace", "rename", "renames"),
    *(
        "mkdir",
        "makedirs",
        "unlink",
        "remove",
        "rmdir",
        "removedirs",
        "link",
        "symlink",
        "truncate",
        "ftruncate",
    ),
    *("posix_fallocate", "utime", "chmod", "close", "mkfifo"),
}
PATH_CALLS = {
    *(
        "write_text",
        "write_bytes",
        "mkdir",
        "unlink",
        "rmdir",
        "rename",
        "touch",
        "symlink_to",
        "hardlink_to",
    ),
    *("tofile", "save", "savez", "save_file", "memmap_flush", "chmod", "rmtree", "copyfile", "move"),
}


def changes(tree):
    """Calls in a module that may change the disk, as text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        text, name = ast.unparse(node), ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        if owner in ("os", "shutil"):
            if method in OS_CALLS or (owner == "shutil" and method != "disk_usage"):
                yield text
        elif method == "open" or name == "open":
            modes = [*node.args[1 if name == "open" else 0 :], *(word.value for word in node.keywords)]
            if any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes):
                yield text
        elif method in PATH_CALLS and not _harmless(owner, method):
            yield text
        elif method == "replace" and len(node.args) == 1 and not node.keywords:
            yield text  # a path's; a string's takes two


def _harmless(owner, method):
    """The door itself, and an image saved into memory."""
    return owner == "files" or (method == "save" and owner.startswith("Image."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_other_module_of_the_store_changes_the_disk(path):
    assert list(changes(ast.parse(path.read_text()))) == []


def test_the_module_of_files_changes_the_disk_in_one_class_alone():
    tree = ast.parse((FOLDER / "files.py").read_text())
    (disk,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Disk")
    assert {text.split("(")[0] for text in changes(disk)} == {
        *("os.open", "os.pwrite", "os.posix_fallocate", "os.ftruncate", "os.fsync", "os.close"),
        *("os.replace", "os.unlink", "os.mkdir", "shutil.rmtree"),
    }
    tree.body.remove(disk)
    assert [text for text in changes(tree) if not text.startswith("disk.")] == []


@pytest.mark.parametrize(
    "text",
    ["os.open(p, 0)", "p.write_text('')", "p.open('wb')", "open(p, mode='a')", "p.unlink()", "p.replace(q)"],
)
def test_the_search_finds_what_it_looks_for(text):
    assert list(changes(ast.parse(text))) == [text]
    assert list(changes(ast.parse("p.open('rb'); open(p); s.replace('a', 'b'); os.getpid()"))) == []


def test_everything_goes_through_the_object_that_stands_there_when_it_is_needed(tmp_path, monkeypatch):
    class NoDisk:
        def __getattr__(self, name):
            raise OSError(5, "no disk")

    monkeypatch.setattr(files, "disk", NoDisk())
    for change in (
        lambda: files.write(tmp_path / "a", b"x"),
        lambda: files.make_folders(tmp_path / "b"),
        lambda: files.Appender(tmp_path / "c"),
        lambda: files.Slots(tmp_path / "d", 10, create=True),
        lambda: files.remove(tmp_path / "e"),
        lambda: files.rename(tmp_path / "f", tmp_path / "g"),
        lambda: files.set_aside(tmp_path / "h"),
    ):
        with pytest.raises(files.UserError):
            change()
    assert list(tmp_path.iterdir()) == []
