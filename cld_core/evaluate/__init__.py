"""Evaluations: requests made of recipes, the rows of metrics, and the report that they merge into.

What is asked and what came of it is read by `cld_core.run.evaluations` (docs/architecture.md,
"Decisions").
"""
