"""What a run is given: scenario, protocol, manager, faults, machines. Knows no runner."""
