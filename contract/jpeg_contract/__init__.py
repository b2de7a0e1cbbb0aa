"""The agreement between all packages of this project: nothing that decides an answer is written twice.

Tensors and model names, settings of the models, classifier forms, reports, config.pbtxt, artefact digests, versions,
GPUs, folders, and the wording of remedies. This package imports no other package of the project, and nothing heavy: the
workers inside Triton import it, too.
"""
