"""Real QEMU processes: what the simulated v1 is held against, and where v2 moves a real guest."""
