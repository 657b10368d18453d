"""Processes and signals: stop requests, detached runs, the processes of a sweep.

Not here: what is shown of them (`display`).
"""
