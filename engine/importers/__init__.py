"""Published artefacts, read into this program's forms: distilled sets, soft labels, statistics.

Not here: teachers (`backbones`), and data sets (`data`).
"""
