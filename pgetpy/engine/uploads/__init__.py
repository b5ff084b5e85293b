"""Writing to object stores.

Belongs here: sending files to a store that speaks S3's protocol, and the journal by which a later
run resumes an upload. Does not: what a store's answers mean (`core/objects`), and where it is
(`sources/`).

    paths               a file or a directory: which files, and which keys they get
    upload              one file: whole or in parts, and checked at the end
    source_file         the file, and its parts as bodies with hashes
    options             how an object is written
    journal             what a later run needs to resume an upload
    multipart_requests  what is said to the store about parts
    connecting          connections to a store, directly or through a proxy
    client              requests: signed, repeated, over connections that are kept

Downloads and uploads share hosts, retries and signatures, and no transport: those are built around
ranges of large answers.
"""
