"""Runs as self-contained HTML pages (`cldctl report`): one in full, or several side by side."""
