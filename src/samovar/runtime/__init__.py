"""Which models are loaded, who watches over their workers, and how requests survive them."""
