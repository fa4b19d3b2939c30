"""Every interleaving of the real endpoints: exhaustive search, and what it proves or refutes."""

from .search import Found, Search, Violation, search
from .system import Faults, Model, System

__all__ = ["Faults", "Found", "Model", "Search", "System", "Violation", "search"]
