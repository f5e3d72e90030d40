"""Files and arrays: knows formats, no physics, no models."""
