"""Archives that become folders while they arrive.

What takes an archive's bytes, undoes its compression and makes its members belongs here. What the
headers mean and which members may be made is decided in core/archives; which folder they end up in
is a matter of destinations/, and nothing here knows the network.

The way of the bytes, by what the first of them say (`sink.ArchiveSink`):

    tar          RandomAccessExtractor: each byte to its file, in any order
    compressed   StreamExtractor: decoded in order -> a tar, in order, or a single file
    zip          DirectoryReader: its end first -> RandomAccessExtractor
    zip, without ranges    SpooledZip: all of it to disk -> RandomAccessExtractor

The way of a member:

    reading        a `Reader` says what the header means
    member_policy  (core) admits it, or refuses the archive
    member_folder  makes it in the staged folder; open_members keeps the file until it is complete
    checking       inflates it and compares its CRC, if it is a zip's
    staging        moves everything to its folder, once the whole archive has been accepted
"""
