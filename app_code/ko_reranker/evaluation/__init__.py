"""Is the candidate better? Fixed candidates, metrics, intervals, and a report to look at."""
