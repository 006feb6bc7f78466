"""The report: one HTML page, its style and its scripts."""
