"""Write a recipe for a network: from what its files say, from options, and from answers."""
