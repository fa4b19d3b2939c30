"""Every interleaving of the real endpoints: exhaustive search, and what it proves or refutes."""

from .search import Found, Search, Violation, search
from .state import Faults, Model
from .system import System

__all__ = ["Faults", "Found", "Model", "Search", "System", "Violation", "search"]
