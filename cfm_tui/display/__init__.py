"""Text output of numbers, images and progress, shared by the commands and the console.

Not here: widgets and screens (see `console`).
"""
