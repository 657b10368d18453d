"""The five stages as generators that yield events and return their artefact, and what they share.

Not here: who drives them, records them and stops them (`runs`).
"""
