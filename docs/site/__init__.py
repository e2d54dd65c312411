"""The build of the site: generated pages, links out of `docs/`, formulas, the check of requests."""
