"""The faces of the engine: the `cfm` commands and the console."""
