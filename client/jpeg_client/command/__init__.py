"""The parts of `jpeg-classify`: a folder of any size to labels, to be continued after any interruption."""
