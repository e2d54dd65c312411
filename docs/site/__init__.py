"""What builds the site: generated pages, links out of `docs/`, formulas, and the check for outside
requests."""
