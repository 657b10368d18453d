"""The user interfaces: the `cfm` command line and the `cfm-tui` console."""
