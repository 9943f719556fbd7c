"""What the kernel knows, brought to the stack: links, addresses, routes, rules, neighbours."""
