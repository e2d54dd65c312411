"""Runs as self-contained HTML pages (`cldctl report`): one run in full, or an index over many."""
