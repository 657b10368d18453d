"""Write finished runs in the formats of other programs.

Not here: reports for people (see `report`).
"""
