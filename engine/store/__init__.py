"""Runs on disk: all reading and writing of their folders, and the cache of artefacts that runs share.

`run` is for the process that owns a run, `reader` for all others.
"""

from engine.store.cache import Cache, CacheEntry, DamagedEntry
from engine.store.check import check, foreign
from engine.store.folders import RunFile, fresh_folder, is_run, open_log, refuse_foreign, runs_folder
from engine.store.reader import AT_WORK, StoredRun, find, list_runs
from engine.store.run import SCHEMA_VERSION, Run, delete, open_run

__all__ = [
    "AT_WORK",
    "SCHEMA_VERSION",
    "Cache",
    "CacheEntry",
    "DamagedEntry",
    "Run",
    "RunFile",
    "StoredRun",
    "check",
    "delete",
    "find",
    "foreign",
    "fresh_folder",
    "is_run",
    "list_runs",
    "open_log",
    "open_run",
    "refuse_foreign",
    "runs_folder",
]
