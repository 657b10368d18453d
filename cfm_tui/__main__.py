"""Run the `cfm` command line by `python -m cfm_tui`."""

from cfm_tui.cli import main

main()
