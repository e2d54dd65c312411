"""Tests of the documentation: its blocks of code, its links, and the site."""
