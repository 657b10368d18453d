"""What checkpoints cost a run, told by its own record: `python tests/bench/checkpoints.py RUN…`."""

import argparse

from engine import store
from engine.events import Checkpointed, StageFinished


def main() -> None:
    """Print for each run how many checkpoints it wrote, what they took, and their share of its time."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("runs", nargs="+", metavar="RUN")
    for name in arguments.parse_args().runs:
        events = list(store.find_run(name).events())
        written = [event for event in events if isinstance(event, Checkpointed)]
        spent = sum(event.seconds for event in written)
        worked = sum(event.seconds for event in events if isinstance(event, StageFinished))
        size = max((event.bytes for event in written), default=0)
        print(
            f"{name}: {len(written)} checkpoints of up to {size:,} bytes, {spent:.2f} s of {worked:.1f} s: "
            f"{100 * spent / (spent + worked):.2f} %"
        )


if __name__ == "__main__":
    main()
