"""The study: runs beyond the assignment that notebooks/study.ipynb reports."""
