"""Stands for a model: the check compiles it, and no test runs it."""


class TritonPythonModel:
    def execute(self, requests):
        return []
