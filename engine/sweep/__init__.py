"""Many experiments as one: what they share, what they vary, and in which order they may run."""
