"""Evaluations: requests made of recipes, the rows of metrics, and the report that they merge into.

`cld_core.run.evaluations` reads requests and reports (docs/architecture.md, "Decisions").
"""
