"""A small language model on real text, and what one vector in the place of a token makes it say."""
