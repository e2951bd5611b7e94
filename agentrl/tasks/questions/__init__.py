"""Questions about documents: passages, who asks about them, and what is dropped."""
