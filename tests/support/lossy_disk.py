"""A disk that loses its power at a chosen call, in place of the store's: what was not synced may be gone."""

import os
import random
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_disk import CALLS

from engine.store import files

needs_open_files = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are looked up in /proc/self/fd"
)


class PowerLoss(BaseException):
    """The process is gone."""


class LossyDisk(files.Disk):
    """Remembers of each file the bytes that were synced, of each folder the names.

    number: which call is not made any more, nor any after it. Only what is below `root` is followed.
    """

    def __init__(self, root, number=0):
        self.root, self.number, self.made = root, number, 0
        self._pins = []  # open handles, so that no inode is used twice
        self._content, self._names = {}, {}
        for place, _, names in os.walk(root):
            self._folder_synced(place)
            for name in names:
                self._file_synced(self._pin(os.path.join(place, name)))

    @property
    def lost(self):
        return 0 < self.number <= self.made

    def count(self):
        self.made += 1
        if self.lost:
            raise PowerLoss

    def synced(self, handle):
        path = os.readlink(f"/proc/self/fd/{handle}")
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            self._folder_synced(path)
        else:
            self._file_synced(handle)

    def leave(self, target, seed=None):
        """Build in `target` what is found after the power is back.

        seed: None for as little as was promised; otherwise each file and folder is as it was synced or
        as it was at the end, by chance.
        """
        rng = None if seed is None else random.Random(seed)
        self._build(os.stat(self.root).st_ino, self.root, target, rng)
        self.let_go()

    def let_go(self):
        """Close what was kept open."""
        for handle in self._pins:
            os.close(handle)

    def _pin(self, path):
        handle = os.open(path, os.O_RDONLY)
        self._pins.append(handle)
        return handle

    def _file_synced(self, handle):
        status = os.fstat(handle)
        if status.st_ino not in self._content:
            self._pin(f"/proc/self/fd/{handle}")
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            self._content[status.st_ino] = file.read()

    def _folder_synced(self, path):
        self._names[os.stat(path).st_ino] = self._now(path)

    def _now(self, path):
        """Each name in a folder with its inode, and where the live entry is."""
        found = {}
        for entry in os.scandir(path):
            found[entry.name] = (self._kept(entry), entry.is_dir())
        return found

    def _kept(self, entry):
        if not entry.is_dir():
            self._pin(entry.path)
        return entry.inode()

    def _build(self, inode, live, target, rng):
        os.makedirs(target, exist_ok=True)
        names = self._names.get(inode, {})
        if rng is not None and rng.random() < 0.5 and os.path.isdir(live):
            names = self._now(live)
        for name, (child, is_folder) in names.items():
            path, now = os.path.join(live, name), os.path.join(target, name)
            if is_folder:
                self._build(child, path, now, rng)
                continue
            content = self._content.get(child, b"")
            if rng is not None and rng.random() < 0.5:
                content = self._read(child, content)
            with open(now, "wb") as file:
                file.write(content)

    def _read(self, inode, otherwise):
        """What the file holds that had this inode, whatever its name is by now."""
        for handle in self._pins:
            if os.fstat(handle).st_ino == inode:
                with open(f"/proc/self/fd/{handle}", "rb") as file:
                    return file.read()
        return otherwise


def _followed(name):
    def call(self, *args):
        self.count()
        found = getattr(files.Disk, name)(self, *args)
        if name == "fsync":
            self.synced(*args)
        return found

    return call


for _name in CALLS:
    setattr(LossyDisk, _name, _followed(_name))


def cut_at(monkeypatch, root, number, work):
    """Do `work(folder, told)` until the power is lost at a call; returns the disk and what was reported."""
    disk, told = LossyDisk(root, number), {}
    with monkeypatch.context() as patch, suppress(PowerLoss):
        patch.setattr(files, "disk", disk)
        work(root / "run", told)
    return disk, told
