"""Identity of an experiment: which settings and inputs make two runs the same experiment.

| settings | matter to |
| --- | --- |
| `LOCAL_SETTINGS` | nothing: they control where and how a run computes; results change by rounding at most |
| `repeats` | the number of samples; it is one of the local settings, so a finished run can get more repeats |
| `seed` | the sample: runs that differ in it alone are samples of one experiment |
| `validate.students` | the number of students: tables compare students of each architecture on their own |
| all others | the experiment |

A path is local; the content of its file is not, so inputs count by their fingerprints in a run's manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from engine.config import Config

LOCAL_SETTINGS = (
    "device",
    "threads",
    "checkpoint_seconds",
    "repeats",
    "recover.micro_batch",
    "data.root",
    "backbone.teacher",
    "backbone.also_teachers",
    "validate.preview_images",
    "validate.together",
    "given.images",
    "given.image_labels",
    "given.max_clipped",
    "given.labels",
    "given.statistics",
)


def config_hash(config: Config) -> str:
    """Return the SHA-256 of every setting that can change a result: all but `LOCAL_SETTINGS`."""
    tree = config.to_dict()
    for *parents, name in (key.split(".") for key in LOCAL_SETTINGS):
        section = tree
        for parent in parents:
            section = section[parent]
        del section[name]
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def changed_settings(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted key → both values of every setting that can change a result and differs."""
    old, new = before.flatten(), after.flatten()
    return {key: (old[key], new[key]) for key in new if old[key] != new[key] and key not in LOCAL_SETTINGS}


def describe_experiment(
    config: Config, identity: Mapping[str, Any], ignored: Collection[str] = ("seed",)
) -> dict[str, Any]:
    """Return what two runs of the same experiment share: dotted key → value.

    identity: fingerprints of a run's manifest, which are returned as `identity.data` and so on; empty for an
    input that it lacks. ignored: settings in which the runs may differ besides the local ones.
    """
    values = config.flatten()
    shared = {key: value for key, value in values.items() if key not in {*ignored, *LOCAL_SETTINGS}}
    inputs = ("data", "teacher", "images", "labels", "statistics")
    return shared | {f"identity.{name}": str(identity.get(name, "")) for name in inputs}
