"""Object stores: names, signatures, listings, and what their errors mean.

Belongs here: whatever can be said about S3, Google's and Azure's stores from texts and numbers
alone. Asking a store is done in `sources/`, and moving its bytes in `engine/`.
"""
