"""Work that is cut in parts and done by many processes: samples in shards, scans of recipes."""
