"""Which blocks exist, in which tiers, and what each is worth."""
