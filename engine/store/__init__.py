"""Runs on disk: all reading and writing of their folders, and the cache of artefacts that runs share.

`run` is for the process that owns a run, `reader` for all others.
"""

from engine.store.cache import Cache, CacheEntry, DamagedEntry
from engine.store.check import list_foreign_files, verify_run
from engine.store.folders import (
    SCHEMA_VERSION,
    RunFile,
    fresh_folder,
    is_run,
    open_log,
    require_run_or_empty,
    runs_folder,
)
from engine.store.reader import ACTIVE, AT_WORK, StoredRun, find_run, list_runs
from engine.store.run import Run, delete_run, open_run, record_start

__all__ = [
    "ACTIVE",
    "AT_WORK",
    "SCHEMA_VERSION",
    "Cache",
    "CacheEntry",
    "DamagedEntry",
    "Run",
    "RunFile",
    "StoredRun",
    "delete_run",
    "find_run",
    "fresh_folder",
    "is_run",
    "list_foreign_files",
    "list_runs",
    "open_log",
    "open_run",
    "record_start",
    "require_run_or_empty",
    "runs_folder",
    "verify_run",
]
