"""How each shipped member is made from its packages: `made(roots)` of a module each."""
