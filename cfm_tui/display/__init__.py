"""How numbers, images and progress look as text, for commands and console alike.

Not here: widgets and pages (`console`).
"""
