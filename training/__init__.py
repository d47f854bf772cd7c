"""Makes samovar-mini: its corpus, its training, its file and its scores."""
