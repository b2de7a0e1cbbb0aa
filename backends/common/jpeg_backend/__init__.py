"""What the Python-based Triton backends of this project share.

Triton runs `<backend directory>/NAME/model.py` for a model whose config says `backend: "NAME"`, if it finds no
native library there. Each folder beside `common/` is such a backend, named as the native one and serving the same
config.pbtxt, so that one model repository runs with and without the native backends.
"""
