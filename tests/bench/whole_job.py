"""How long a whole job takes beside a plain loop of the paper's procedure, from rates measured in turns.

    python tests/bench/whole_job.py [--iterations 250] [--precision bfloat16] [--rounds 5] [--threads 2]

The job is CIFAR-10, ConvNet-128, 10 images per class, with the control of random images: 10 batches of 10
images are recovered, and a student learns 1000 epochs of 100 images of each source. Each repeat does all of
it, so that the ratio does not depend on their number. Squeeze and the statistics of the real images, which
are computed once and cached, are left out.
plain: the loops of recovery.py and students.py that are written down first, with 1000 iterations, in float32.
ours: the engine's steps with --iterations, students in --precision.
With --threads 1 all figures are processor time (see `read_clock`).
"""

from __future__ import annotations

import argparse
import statistics

import torch
from recovery import CPU, Ours, Plain, scene, smooth_images, teacher, timed
from students import Ours as OurStudent
from students import Plain as PlainStudent
from students import configuration, seconds

BATCHES, ITERATIONS, EPOCHS, SOURCES = 10, 1000, 1000, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    one, images = scene("convnet"), smooth_images(100)
    config = configuration("convnet", (f"validate.precision={given.precision}",))
    model = teacher(config)
    recoveries = {"plain": Plain(one), "ours": Ours(one)}
    students = {
        "plain": PlainStudent(config, model, images, CPU),
        "ours": OurStudent(config, model, images, CPU),
    }
    iterations = {"plain": ITERATIONS, "ours": given.iterations}
    for name in recoveries:
        timed(recoveries[name].step, 3)
        students[name].epoch()
    rounds = []
    for _ in range(given.rounds):
        spent = {}
        for name, recovery in recoveries.items():
            recover = BATCHES * iterations[name] * timed(recovery.step, 30) / 1000
            spent[name] = (recover, SOURCES * EPOCHS * seconds(students[name], 2, CPU))
        rounds.append(spent)
    for name in recoveries:
        recover, validate = (statistics.median(each[name][part] for each in rounds) for part in range(2))
        print(f"{name:6} recovery {recover:5.0f} s  students {validate:5.0f} s  {recover + validate:5.0f} s")
    ratio = statistics.median(sum(each["plain"]) / sum(each["ours"]) for each in rounds)
    print(f"plain takes {ratio:.2f} times as long, median of {given.rounds} rounds")


if __name__ == "__main__":
    main()
