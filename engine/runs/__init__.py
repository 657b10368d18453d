"""Run one experiment: check its settings, run and time its stages, record events, stop and resume.

Not here: what a stage computes (see `stages`), and how a run is stored on disk (see `store`).
"""
