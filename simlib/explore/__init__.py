"""Every interleaving of the real endpoints: exhaustive search, and what it proves or refutes."""

from .properties import PROPERTIES, Property
from .search import Search, SearchResult, Violation, search
from .state import Faults, Model
from .system import System

__all__ = ["PROPERTIES", "Faults", "Model", "Property", "Search", "SearchResult", "System", "Violation", "search"]
