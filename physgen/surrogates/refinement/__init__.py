"""Events made from other events: a fast simulation refined to a full one."""
