"""Every order of events, each state once: `search(system)` runs the real endpoints through all that may happen."""

from .properties import PROPERTIES, Violation
from .search import Found, search
from .system import Budget, System

__all__ = ["PROPERTIES", "Budget", "Found", "System", "Violation", "search"]
