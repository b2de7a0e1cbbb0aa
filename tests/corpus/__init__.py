"""Odd and broken JPEGs for the tests of the decoder.

`encoders` writes JPEGs that Pillow cannot write, `surgery` cuts and inserts bytes, `generated` has the cases that the
two make, each with what is expected of the decoder, and `public` the images of other projects' tests.
"""
