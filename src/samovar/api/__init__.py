"""Wire dialects and our nouns, one into the other. Pure: no sockets, no framework, no models."""
