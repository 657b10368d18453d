"""Processes and signals: stop requests, detached runs, the processes of a sweep.

Not here: their progress output (see `display`).
"""
