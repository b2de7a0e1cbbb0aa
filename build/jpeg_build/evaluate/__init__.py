"""`jpeg-build evaluate`: the accuracy of a network and of everything that was built of it, on labelled photos.

`evaluation.evaluate` is the entry. Photos and their labels come from `dataset`, answers from `runs`, numbers from
`measures`, their comparison with a bound from `gate`, the files from `report_files`.
"""
