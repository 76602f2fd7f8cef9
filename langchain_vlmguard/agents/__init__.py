"""What stands behind the faces for agents: checks, held parts, review and publication of verdicts."""
