"""Network bodies, without physics or losses."""
