"""The console's pages and dialogs."""
