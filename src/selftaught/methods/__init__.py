"""Methods: how a round makes its data. One file per method; the file name is its name in a recipe."""
