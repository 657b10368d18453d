"""`python -m cfm_tui` is `cfm`."""

from cfm_tui.cli import main

main()
