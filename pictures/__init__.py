"""Pictures read and written as 8-bit samples, and how alike two of them are."""
