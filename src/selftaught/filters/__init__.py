"""Filters: one reason to reject an example per file."""
