"""nucleiflow: every nucleus of a whole-slide image, exactly labelled, at any size."""

__version__ = "0.1.0"
