"""A directory of blocks that several processes use: published, read, verified, put right."""
