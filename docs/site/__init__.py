"""What builds the site: pages that are generated, links out of `docs/`, formulas, and the check for outside requests."""
