"""The model repository: what lies in it, and the commands that change it."""
