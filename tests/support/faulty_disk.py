"""A disk that fails at a chosen call, in place of the store's."""

import errno
import os
from collections import Counter

from engine.store import files

CALLS = ("open", "write", "allocate", "truncate", "fsync", "close", "replace", "unlink", "mkdir")


class FaultyDisk(files.Disk):
    """Counts the store's calls by name in `calls`, and lets the `number`-th of those in `which` fail."""

    def __init__(self, number=0, code=errno.EIO, which=CALLS):
        self.number, self.code, self.which = number, code, which
        self.calls = Counter()

    @property
    def failed(self):
        return 0 < self.number <= sum(self.calls[name] for name in self.which)

    def count(self, name):
        self.calls[name] += 1
        if name in self.which and sum(self.calls[each] for each in self.which) == self.number:
            raise OSError(self.code, os.strerror(self.code))


def _counted(name):
    def call(self, *args):
        try:
            self.count(name)
        except OSError:
            if name == "close":
                os.close(*args)
            raise
        return getattr(files.Disk, name)(self, *args)

    return call


for _name in CALLS:
    setattr(FaultyDisk, _name, _counted(_name))


def each_failure(monkeypatch, prepare, work):
    """Call `work(prepare())` with the first call of the disk failing, then the second, … until none does.

    Yields what `prepare` gave, and the error (None for the last time).
    """
    number = 0
    while True:
        number += 1
        place, disk, error = prepare(), FaultyDisk(number), None
        with monkeypatch.context() as patch:
            patch.setattr(files, "disk", disk)
            try:
                work(place)
            except Exception as caught:
                error = caught
        yield place, error
        if not disk.failed:
            return
