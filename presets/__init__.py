"""Experiments, protocols and methods as YAML files; read by `engine.settings`."""
