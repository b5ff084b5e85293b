"""Writing to object stores.

Belongs here: sending files to a store that speaks S3's protocol, and the journal by which a later
run resumes an upload. Does not: what a store's answers mean (`core/objects`), and where it is
(`sources/`).
"""
