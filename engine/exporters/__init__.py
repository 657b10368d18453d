"""Finished runs, written in the layouts that other programs read.

Not here: reports for people (`report`).
"""
