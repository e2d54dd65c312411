"""Evaluations: a request, its shards, and the report that they merge into (docs/architecture.md, "Decisions")."""
