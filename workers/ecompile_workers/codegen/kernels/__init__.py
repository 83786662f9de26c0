"""C text of the functions that do the work. `@` stands for the function's name."""
