"""Real QEMU processes: what the simulated v1 is compared with, and where v2 moves a real guest."""
