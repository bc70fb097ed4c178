"""One module for each shipped data set: `build(roots)` makes it from its packages."""
