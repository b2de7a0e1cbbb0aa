"""Coverage-guided fuzzing of what reads bytes and files of others: `python -m coverage_fuzz --help`.

From the inside out: `check` has what a target is, `decoding`, `headers`, `recipes`, `configs` and `reports` are the
targets, `jpeg_mutator` and `text_mutator` make inputs of inputs, `targets` lists the targets, `kept` reads and writes
the corpus, `findings` the inputs that broke a rule, `engine` is the process that fuzzes one target, `replaying` the one
that runs one input, `campaign` runs such processes, `cli` is the command.

The engine is atheris, that is libFuzzer for Python. All but `engine` works without it: the corpus is replayed on every
version of Python.
"""
