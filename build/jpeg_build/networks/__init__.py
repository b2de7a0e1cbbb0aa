"""The trained network behind a recipe, whatever framework made it, as one interface."""
