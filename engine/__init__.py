"""The computation: dataset distillation as spectral filtering (UniDD, CFM).

Nothing in this package draws on a screen, prints, or parses command lines.
"""
