"""Looking into a run: what each op gave, and where two runs part."""
