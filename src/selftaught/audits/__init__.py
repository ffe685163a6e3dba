"""Audits: one thing that can go wrong with a model or its texts, measured, per file."""
