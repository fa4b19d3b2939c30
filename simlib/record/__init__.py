"""What a run leaves: trace, outcome, row, chart, capture, and how runs compare. Knows no runner."""
