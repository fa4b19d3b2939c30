"""From runs to tables: pandas lives here, and runners are arguments."""
