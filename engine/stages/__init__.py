"""The five stages, as generators that yield events and return an artefact, and the code they share.

Not here: running, recording and stopping them (`runs`).
"""
