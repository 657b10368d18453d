"""Everything that a run leaves on disk, and the only code that writes it.

`run` is the owner's side, `reader` everybody else's; `cache` holds what runs share.
"""

from engine.store.cache import Cache, DamagedEntry, Entry
from engine.store.reader import StoredRun, find, is_run, list_runs
from engine.store.run import SCHEMA_VERSION, Run, fresh_folder, open_run, refuse_foreign, runs_folder

__all__ = [
    "SCHEMA_VERSION",
    "Cache",
    "DamagedEntry",
    "Entry",
    "Run",
    "StoredRun",
    "find",
    "fresh_folder",
    "is_run",
    "list_runs",
    "open_run",
    "refuse_foreign",
    "runs_folder",
]
