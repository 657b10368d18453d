"""What finished runs say together: tables and comparisons, read from their folders."""
