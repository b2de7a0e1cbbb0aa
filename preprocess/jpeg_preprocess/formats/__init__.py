"""Images of other formats than JPEG: what a file is, its first picture and what that costs, and its pixels.

A header is read here before any decoder sees the file, and the decoder gets the first picture alone: the further ones
of an animation, thumbnails, texts and profiles cost nothing, whatever a file states about them.

`opening` is imported where a recipe lists such a format: a server of JPEGs needs none of the decoders.
"""
