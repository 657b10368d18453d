"""One finished run for all tests of exports."""

import pytest
from stages import drive

from engine import store
from engine.config import settings
from engine.runs import launch


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    """A finished smoke run with two images per class, beside the cache that has its teacher."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFM_CACHE", str(root / "cache"))
        resolved = settings.resolve(preset="smoke", sets=["repeats=1", "ipc=2", "recover.iterations=40"])
        drive(launch.run_experiment(resolved, root / "run", "run", ["test"]))
        yield store.StoredRun(root / "run")
