"""Identity of an experiment: a hash of every setting that can change a result, and of no other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engine.config import Config

#: Settings that only control where and how a run computes; they change results by rounding at most.
LOCAL_SETTINGS = (
    "device",
    "checkpoint_seconds",
    "recover.micro_batch",
    "data.root",
    "backbone.teacher",
    "backbone.also_teachers",
    "given.images",
    "given.labels",
    "given.statistics",
)


def config_tree(config: Config) -> dict[str, Any]:
    """Return the configuration as nested JSON-serialisable data, with the key names used in files."""
    return config.model_dump(mode="json", by_alias=True)


def config_hash(config: Config) -> str:
    """Return the SHA-256 of every setting that can change a result.

    `LOCAL_SETTINGS` are left out: the device, the micro-batch size, the checkpoint interval, and the paths
    of data, teachers, given images, labels and statistics, whose contents have fingerprints of their own.
    """
    tree = config_tree(config)
    for *parents, name in (key.split(".") for key in LOCAL_SETTINGS):
        section = tree
        for parent in parents:
            section = section[parent]
        del section[name]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
