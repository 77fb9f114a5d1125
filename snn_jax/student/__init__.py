"""The half of a review that a student's code runs in.

It knows nothing of right and wrong:

    source       the Python of a script or notebook
    modules      what it may import
    functions    what is in it, described and called
    process      the same in a process of its own: arrays in, arrays out

and imports nothing else of the package.
"""
