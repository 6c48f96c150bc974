"""Tierwise: find, build, measure and run the best deployment of a model over mobile, edge and cloud tiers.

Importing this package is cheap and brings neither torch nor transformers; every room is imported by its own name
(``tierwise.topology``, ``tierwise.artifact``, ...).
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
