"""The commands of `robcal`, each a typed function whose docstring is its help; `cli` puts them in order."""
