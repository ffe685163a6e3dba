"""Tasks: one data source per file, with its splits and its checker."""
