"""Tars that no usual program writes, by what is odd about them, for GNU tar and us to judge."""

from __future__ import annotations

from tests.support.tars import (
    BLOCK,
    END,
    base_256,
    block,
    described,
    file,
    octal,
    old_sparse,
    padded,
    pax,
    record,
    with_checksum,
)

DATA = b"data of it"
GNU, V7 = b"ustar  \0", bytes(8)
ONE = file(b"one", DATA)
TWO = ONE + file(b"two", b"x" * 600)
SUM = int(ONE[148:154], 8)


def sparse(version: bytes, *records: tuple[bytes, bytes]) -> bytes:
    major, minor = version.split(b".")
    versions = ((b"GNU.sparse.major", major), (b"GNU.sparse.minor", minor))
    return pax(*versions, (b"GNU.sparse.name", b"holes"), *records)


def signed_sum() -> bytes:
    high = file(b"\xc3\xa9", DATA)
    return with_checksum(high, b"%06o\0 " % (int(high[148:154], 8) - 512))


# GNU tar takes these without a failure.
TAKEN = {
    "usual": TWO + END,
    "no end marker": TWO,
    "no end marker, member without data": TWO + block(b"empty"),
    "no end marker, hard link": TWO + block(b"same", b"1", target=b"one"),
    "no end marker, global header last": TWO + pax((b"comment", b"x"), flag=b"g"),
    "no end marker, odd zeros": TWO + bytes(100),
    "no end marker, newline": TWO + b"\n",
    "one zero block": TWO + bytes(BLOCK),
    "one zero block and a part": TWO + bytes(BLOCK + 100),
    "one zero block, newline": TWO + bytes(BLOCK) + b"\n",
    "one zero block, member": TWO + bytes(BLOCK) + file(b"late") + END,
    "one zero block, garbage": TWO + bytes(BLOCK) + b"g" * 3 * BLOCK,
    "garbage behind the marker": TWO + END + b"g" * 999,
    "archives in a row": TWO + END + file(b"late") + END,
    "archives in a row, only the last with a marker": ONE + file(b"two") + file(b"late") + END,
    "a record of 20 blocks": (TWO + END).ljust(20 * BLOCK, b"\0"),
    "a record of 2048 blocks": (TWO + END).ljust(2048 * BLOCK, b"\0"),
    "no member, 1 block": bytes(BLOCK),
    "no member, 2 blocks": END,
    "no member, 20 blocks": bytes(20 * BLOCK),
    # Extended headers.
    "pax time with a tail": pax((b"mtime", b"1.5x")) + TWO + END,
    "pax time with an exponent": pax((b"mtime", b"1e9")) + TWO + END,
    "pax time with a comma": pax((b"mtime", b"1,5")) + TWO + END,
    "pax time with zeros": pax((b"mtime", b"0" * 30 + b"1")) + TWO + END,
    "pax time before 1970": pax((b"mtime", b"-5.25")) + TWO + END,
    "pax time far off": pax((b"mtime", b"%d" % 2**40)) + TWO + END,
    "two pax headers, two paths": pax((b"path", b"a")) + pax((b"path", b"b")) + TWO + END,
    "two pax headers, path lost": pax((b"path", b"a")) + pax((b"mtime", b"7")) + TWO + END,
    "two pax headers, size lost": pax((b"size", b"9")) + pax((b"mtime", b"7")) + TWO + END,
    "two pax headers, sparse lost": pax((b"GNU.sparse.size", b"4000"), (b"GNU.sparse.map", b"0,10"))
    + pax((b"mtime", b"7"))
    + TWO
    + END,
    "three pax headers": b"".join(pax((b"path", each)) for each in (b"a", b"b", b"c")) + TWO + END,
    "pax and Solaris": pax((b"path", b"a")) + pax((b"path", b"b"), flag=b"X") + TWO + END,
    "Solaris": pax((b"path", b"a"), flag=b"X") + TWO + END,
    "a keyword twice": pax((b"path", b"a"), (b"path", b"b")) + TWO + END,
    "pax size with zeros": pax((b"size", b"0010")) + TWO + END,
    "pax size with 30 zeros": pax((b"size", b"0" * 30 + b"10")) + TWO + END,
    "pax size -0": pax((b"size", b"-0")) + file(b"one", b"") + file(b"two") + END,
    "pax size alone": pax((b"size", b"600")) + block(b"big") + padded(b"y" * 600) + TWO + END,
    "pax size of a folder": pax((b"size", b"600")) + block(b"d/", b"5") + TWO + END,
    "pax size of a link": pax((b"size", b"600")) + block(b"l", b"2", target=b"two") + TWO + END,
    "record with a tab": described(b"9\tpath=a\n") + TWO + END,
    "record with blanks": described(b" 12  path=a\n") + TWO + END,
    "record with zeros": described(b"0012 path=a\n") + TWO + END,
    "record without a keyword": described(b"4 =\n" + record(b"path", b"a")) + TWO + END,
    "record of nobody": pax((b"SCHILY.foo", b"1"), (b"LIBARCHIVE.x", b"\0")) + TWO + END,
    "records and zeros": described(record(b"path", b"a") + bytes(50)) + TWO + END,
    "empty extended header": block(b"d", b"x") + TWO + END,
    "global header": pax((b"mtime", b"7"), (b"comment", b"c" * 40), flag=b"g") + TWO + END,
    "global header in the middle": ONE + pax((b"mtime", b"7"), flag=b"g") + file(b"two") + END,
    "global behind extended": pax((b"path", b"a")) + pax((b"mtime", b"7"), flag=b"g") + TWO + END,
    "global size": pax((b"size", b"10"), flag=b"g") + ONE + file(b"two") + END,
    "extended header last": TWO + pax((b"path", b"a")) + END,
    "long name last": TWO + described(b"long\0", b"L") + END,
    # Long names.
    "long name": described(b"long\0", b"L") + TWO + END,
    "long name without NUL": described(b"long", b"L") + TWO + END,
    "long name, then pax": described(b"long\0", b"L") + pax((b"path", b"own")) + TWO + END,
    "pax, then long name": pax((b"path", b"own")) + described(b"long\0", b"L") + TWO + END,
    "long name and pax time": described(b"long\0", b"L") + pax((b"mtime", b"5")) + TWO + END,
    "two long names": described(b"a\0", b"L") + described(b"b\0", b"L") + TWO + END,
    "long name and target": described(b"long\0", b"L")
    + described(b"two\0", b"K")
    + block(b"q", b"2", target=b"r")
    + TWO
    + END,
    "long target, then pax": described(b"one\0", b"K")
    + pax((b"linkpath", b"two"))
    + block(b"q", b"2", target=b"r")
    + TWO
    + END,
    # Forms and kinds.
    "V7": file(b"one", magic=V7) + file(b"d/two", magic=V7, flag=b"\0") + END,
    "V7 folder": block(b"d/", b"\0", magic=V7) + file(b"d/two", magic=V7) + END,
    "V7 links": file(b"one", magic=V7)
    + block(b"l", b"1", target=b"one", magic=V7)
    + block(b"m", b"2", target=b"one", magic=V7)
    + END,
    "rubbish for a form": file(b"one", magic=b"rubbish!", rest=(345, b"pre")) + END,
    "a file by type 7": file(b"one", flag=b"7") + END,
    "unknown types": file(b"one", flag=b"A") + file(b"two", flag=b"Z") + END,
    "volume label": block(b"label", b"V") + TWO + END,
    "volume label with a size": file(b"label", flag=b"V") + TWO + END,
    "dumped folder": file(b"d/", b"Yone\0\0", flag=b"D", magic=GNU) + file(b"d/one") + END,
    "folder with a size": block(b"d/", b"5", size=octal(600)) + TWO + END,
    "link with a size": block(b"l", b"2", target=b"two", size=octal(600)) + TWO + END,
    "hard link with a size": TWO + block(b"l", b"1", target=b"two", size=octal(10)) + ONE + END,
    "hard link": TWO + block(b"l", b"1", target=b"./two") + END,
    "hard link to itself": TWO + block(b"two", b"1", target=b"two") + END,
    "files of one name": file(b"one", b"1") + file(b"one", b"22") + END,
    "a link replaced": block(b"one", b"2", target=b"two") + file(b"one", b"1") + END,
    "names with dots": block(b"./", b"5") + file(b"./a/./b//c") + END,
    # Numbers.
    "base-256 time": file(b"one", mtime=base_256(1 << 33)) + END,
    "base-256 time before 1970": file(b"one", mtime=base_256(-5)) + END,
    "base-256 size": block(b"one", size=base_256(10)) + padded(DATA) + file(b"two") + END,
    "base-256 mode": file(b"one", mode=base_256(0o640, 8)) + END,
    "time of all bits": file(b"one", mtime=b"7" * 12) + END,
    "time of NULs": file(b"one", mtime=bytes(12)) + END,
    "time behind a NUL": file(b"one", mtime=b"\0 17        ") + END,
    "mode with a kind": file(b"one", mode=b"0100644\0") + END,
    "mode without NUL": file(b"one", mode=b"00000644") + END,
    "mode in spaces": file(b"one", mode=b"   644 \0") + END,
    "size in spaces": block(b"one", size=b"         12 ") + padded(DATA) + file(b"two") + END,
    "size in tabs": block(b"one", size=b"\t\t\t      12\0") + padded(DATA) + file(b"two") + END,
    "size without NUL": block(b"one", size=b"000000000012") + padded(DATA) + file(b"two") + END,
    "size before rubbish": block(b"one", size=b"12 garbage!!") + padded(DATA) + file(b"two") + END,
    "size behind a NUL": block(b"one", size=b"\0         12") + padded(DATA) + file(b"two") + END,
    "size of NULs": block(b"one", size=bytes(12)) + file(b"two") + END,
    "devices of a file": file(b"one", major=(329, b"garbage!"), minor=(337, b"\xfe" * 8)) + END,
    "owners without NUL": file(b"one", user=(265, b"u" * 32), group=(297, b"g" * 32)) + END,
    "name without NUL": file(b"n" * 100) + file(b"two") + END,
    "name and prefix without NUL": file(b"n" * 100, prefix=b"p" * 77 + b"/" + b"q" * 77) + END,
    "target without NUL": block(b"one", b"2", target=b"t" * 100) + END,
    "checksum in spaces": with_checksum(ONE, b"%6o\0 " % SUM) + END,
    "checksum of 8 digits": with_checksum(ONE, b"%08o" % SUM) + END,
    "checksum of 7 digits": with_checksum(ONE, b"%07o\0" % SUM) + END,
    "checksum before rubbish": with_checksum(ONE, b"%o xyz" % SUM) + END,
    "checksum of signed bytes": signed_sum() + END,
    # Sparse files, each with the empty part at the end that states the size.
    "sparse 0.1": sparse(
        b"0.1",
        (b"GNU.sparse.size", b"4000"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.map", b"512,512,4000,0"),
    )
    + block(size=octal(512))
    + b"z" * 512
    + TWO
    + END,
    "sparse 1.0": sparse(b"1.0", (b"GNU.sparse.realsize", b"4000"))
    + block(size=octal(1024))
    + padded(b"2\n512\n512\n4000\n0\n")
    + b"z" * 512
    + TWO
    + END,
    "sparse, old": old_sparse(0, (1024, 512), (4096, 0)) + b"z" * 512 + TWO + END,
    "sparse, old, no end marker": old_sparse(0, (1024, 512), (4096, 0)) + b"z" * 512,
}

# GNU tar extracts these as well, and fails at the end for what cannot be read of times and owners.
ROUGH = {
    "pax time that is none": pax((b"mtime", b"now")) + TWO + END,
    "pax time that is empty": pax((b"mtime", b"")) + TWO + END,
    "pax time out of range": pax((b"mtime", b"9" * 30)) + TWO + END,
    "global time that is none": pax((b"mtime", b"now"), flag=b"g") + TWO + END,
    "other pax fields": pax((b"atime", b"now"), (b"ctime", b"x"), (b"uid", b"q")) + TWO + END,
    "pax size that is empty": pax((b"size", b"")) + TWO + END,
    "time that is not a number": file(b"one", mtime=b"0000000000x\0") + TWO + END,
    "time of nines": file(b"one", mtime=b"9" * 12) + TWO + END,
    "time of blanks": file(b"one", mtime=b" " * 12) + TWO + END,
    "time out of range": file(b"one", mtime=base_256(1 << 80)) + TWO + END,
    "mode that is not a number": file(b"one", mode=b"00006x4\0") + TWO + END,
    "mode of blanks": file(b"one", mode=b" " * 8) + TWO + END,
    "owners that are no numbers": file(b"one", uid=(108, b"garbage!" * 2)) + TWO + END,
}

# Nobody can know what these should have held, or GNU tar leaves out what they say.
REFUSED = {
    "nothing": b"",
    "less than a block": bytes(511),
    "cut within data": TWO[:-924],
    "cut within padding": TWO[:-1],
    "cut within a header": TWO + file(b"three")[:300],
    "cut behind a header": TWO + block(b"three", size=octal(5)),
    "cut behind an extended header": TWO + pax((b"path", b"a")),
    "cut behind a long name": TWO + described(b"long\0", b"L"),
    "garbage in the middle": ONE + b"g" * 512 + TWO + END,
    "garbage at the end": TWO + b"g" * 512,
    "continued from another volume": file(b"one", flag=b"M", magic=GNU) + TWO + END,
    "hard link before its file": block(b"l", b"1", target=b"two") + TWO + END,
    "a way out": file(b"../two") + ONE + END,
    "a name from the root": file(b"/two") + ONE + END,
    "a file below a file": ONE + file(b"one/two") + END,
    "size that is not a number": block(b"one", size=b"00000000008\0") + padded(DATA) + TWO + END,
    "size below zero": block(b"one", size=base_256(-10)) + padded(DATA) + TWO + END,
    "pax size below zero": pax((b"size", b"-1")) + TWO + END,
    "pax size in hex": pax((b"size", b"0x0a")) + TWO + END,
    "broken record": described(record(b"path", b"a") + b"junk") + TWO + END,
    "sparse 2.0": sparse(b"2.0", (b"GNU.sparse.realsize", b"4000")) + TWO + END,
    "sparse by POSIX": old_sparse(0, (1024, 512), magic=b"ustar\x0000") + b"z" * 512 + END,
}
