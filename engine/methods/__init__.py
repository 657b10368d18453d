"""Distillation methods that a list of terms cannot express, one module each."""
