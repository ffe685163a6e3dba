"""Engines: what generates, scores and tunes. scripted is the fake that the unit tests use."""
