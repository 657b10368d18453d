"""Read published artefacts: distilled sets, soft labels, statistics.

Not here: teachers (see `backbones`), and data sets (see `data`).
"""
