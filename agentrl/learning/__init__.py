"""How episodes become a gradient."""
