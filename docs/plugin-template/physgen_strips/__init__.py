"""A silicon strip detector and a bijection for physgen."""
