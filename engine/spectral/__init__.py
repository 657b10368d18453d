"""The method: statistics of features, filters of their spectrum, and the loss that matches them.

Not here: networks (`backbones`) and the loop that optimises images (`stages.recover`).
"""
