"""How fast this machine can classify JPEGs, how near to that the server comes, and what other servers reach."""
