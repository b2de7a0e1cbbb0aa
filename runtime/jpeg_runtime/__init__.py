"""The inside of a server: the loaders that open an artefact of any form, and code that Triton's Python workers share.

`loading.open_classifier` is the only way in: the server's models, the build's parity check, its measurement of speed,
`jpeg-build verify` and the bench's ceiling all open an artefact through it, with the settings that serve.
"""
