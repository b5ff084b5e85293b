"""The commands as a table. Their options are in `settings.options`.

Help, completion, the man page and the page of options in docs/ are made from it, so that a command
cannot be missing from one of them. `cli/dispatch` says what a command does.

Texts are wrapped by hand, because some lines must stay apart. What several commands share is a
constant above the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish", "powershell")


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        usage: what follows the command's name.
        summary: its line in the list of commands, and the first sentence of its help.
        details: the rest of what it does.
    """

    usage: str
    summary: str
    details: str = ""

    @property
    def about(self) -> str:
        return f"{self.summary[0].upper()}{self.summary[1:]}.\n{self.details}".rstrip()


_KINDS = """\
an http, https, file or data URL, hf://OWNER/NAME[/FILE], s3://, b2://, gs:// or az:// with
a key, civitai.com/models/ID, an AIR name, or OWNER/NAME[:VERSION] of Replicate"""
_ENTRY = "REF is a reference, or the first 8 or more digits of a key that `pgetpy cache ls` shows."
_ENSURE = f"""\
The paths are printed one a line, in the order of the REFs, once all files are complete
and verified. Files that are missing from the cache are downloaded in parallel. REF is
{_KINDS}.
For an archive or a repository the path is that of its only .safetensors file."""

_SPEC = """\
SPEC is the base model (hf://OWNER/NAME[@REVISION], s3://BUCKET/FOLDER, a folder, a
.safetensors file), or a .json file, or - for standard input, with the arguments of
PipelineSpec: {"base": REF, "loras": [{"path": REF, "scale": 0.7}], ...}. Flags win."""
_PIPELINE = "KEY is the first 8 or more digits of a key that `pgetpy pipeline ls` shows."

# By name; `download` is what runs without a command.
COMMANDS: Mapping[str, Command] = {
    "download": Command(
        "[flags] URL [DEST]\n       pgetpy COMMAND [flags] ...",
        "download URL to DEST, over several connections where that is faster",
        f"""\
URL is {_KINDS}.
DEST is a file, a folder, or - for standard output. In a folder, and without DEST in the
current one, the file is named by the server or after the URL.""",
    ),
    "multifile": Command(
        "[flags] MANIFEST|-",
        "download the files of a manifest",
        """\
Each line of a manifest is `URL DEST [ALGO:HEX] [-x]`. Blank lines and # comments are
skipped. When a file fails the others continue.""",
    ),
    "ensure": Command(
        "[flags] REF...", "download weights into the cache and print their paths", _ENSURE
    ),
    "prefetch": Command(
        "[flags] MANIFEST|-",
        "fill the cache with what a manifest lists, such as while an image is built",
        """\
Each line of a manifest is `REF [KIND] [sha256:HEX]`; KIND is as for --wanted. What is missing
is downloaded, hashed and flushed. --check compares names and sizes and --verify all bytes,
both without downloading; the exit status is 1 unless all are found sound.""",
    ),
    "snapshot": Command(
        "[flags] REPOSITORY",
        "download a repository into the cache of huggingface_hub",
        """\
REPOSITORY is a repository of Hugging Face: hf://OWNER/NAME[@REVISION], or the URL of its
page or of one of its folders. The path of the snapshot is printed; from_pretrained finds
it there. Files that exist already are not downloaded again.""",
    ),
    "put": Command(
        "[flags] FILE|DIR TARGET",
        "upload a file, or the files of a directory, to an object store",
        """\
TARGET is s3://BUCKET/KEY, b2://BUCKET/KEY or gs://BUCKET/KEY; if it ends with a slash the
file's name is added. Large files go in parts of --chunk-size (default 16Mi), in parallel,
and the same command continues an upload that was interrupted.""",
    ),
    "cache": Command(
        "COMMAND [flags] ...",
        "inspect and maintain the cache: ls, info, verify, gc and more",
        "`pgetpy ensure` and the Python package share this cache.",
    ),
    "cache ls": Command("[flags]", "list the entries, the most recently used first"),
    "cache info": Command("[flags]", "show where the cache is, its size, and its limits"),
    "cache path": Command("[flags] REF...", "print the paths of entries, without requests", _ENTRY),
    "cache ensure": Command("[flags] REF...", "the same as pgetpy ensure", _ENSURE),
    "cache rm": Command(
        "[flags] REF...", "remove entries", f"Entries that are pinned or in use stay.\n{_ENTRY}"
    ),
    "cache verify": Command(
        "[flags] [REF...]",
        "check the hashes of entries and download damaged ones again",
        "Without REF all entries are checked. What has no digest to compare with is unknown, and\n"
        "downloaded again too. The exit status is 1 unless all are found sound.\n"
        f"{_ENTRY}",
    ),
    "cache gc": Command(
        "[flags]",
        "shrink the cache to its limits and remove what dead processes left",
        """\
The least recently used entries are removed first. Unfinished downloads are kept for a
day, or for --older-than, so that the next run can continue them.""",
    ),
    "cache pin": Command(
        "[flags] REF...",
        "keep entries until they are unpinned",
        f"REF need not be in the cache yet.\n{_ENTRY}",
    ),
    "cache unpin": Command("[flags] REF...", "remove pins", _ENTRY),
    "cache prune": Command(
        "--older-than TIME [flags]",
        "remove entries that have not been used for some time",
        "Entries that are pinned or in use stay.",
    ),
    "compile-cache": Command(
        "COMMAND [flags] ...",
        "keep what torch.compile and Triton have compiled: load, save and more",
        "--location or PGET_COMPILE_CACHE says where.",
    ),
    "compile-cache load": Command(
        "[flags]",
        "lay down what is saved for this machine",
        "Nothing is overwritten. What is damaged in the compilers' folders is removed.",
    ),
    "compile-cache save": Command("[flags]", "save what has been compiled since"),
    "compile-cache run": Command(
        "[flags] -- PROGRAM [ARGUMENT...]",
        "load, run a program, and save what it compiled",
        """\
It is saved once the program is ready (--ready-url), or when it ends well. The exit
status is the program's. Signals are passed on to it.""",
    ),
    "compile-cache ls": Command("[flags]", "list what is saved, by the machines that it is for"),
    "compile-cache info": Command(
        "[flags]", "show the key of this machine, and what it is made of"
    ),
    "compile-cache explain": Command("[flags]", "say why there is something to load, or not"),
    "compile-cache verify": Command(
        "[flags] [KEY...]",
        "read all packs and compare all digests",
        "Without KEY all keys are checked. The exit status is 1 if anything is damaged.",
    ),
    "compile-cache rm": Command("[flags] KEY...", "remove what is saved for a key"),
    "compile-cache prune": Command(
        "[flags] [KEY...]", "join packs of which little is used into one"
    ),
    "compile-cache publish": Command(
        "[flags]", "write an index for each key, so that a plain web server can serve the location"
    ),
    "pipeline": Command(
        "COMMAND [flags] ...",
        "diffusers pipelines on disk: plan, build, verify and more",
        "The same folders that PipelineStore of pgetpy.pipelines uses.",
    ),
    "pipeline plan": Command(
        "[flags] SPEC",
        "show which files a pipeline needs, from where, and what would be fetched",
        f"""\
{_SPEC}
Only model_index.json is fetched.""",
    ),
    "pipeline key": Command(
        "[flags] SPEC",
        "print the key of a pipeline, which is made of its content alone",
        f"""\
{_SPEC}
Small files are fetched, and weights whose sha256 no service says.""",
    ),
    "pipeline build": Command(
        "[flags] SPEC",
        "fetch what a pipeline needs and print its folder, then its LoRAs, one a line",
        f"""\
{_SPEC}
Loaders take the folder as it is: from_pretrained(folder).""",
    ),
    "pipeline ls": Command("[flags]", "list the pipelines on disk, the most recently used first"),
    "pipeline show": Command(
        "[flags] KEY",
        "show the build manifest of a pipeline: what was asked for, what it became, its files",
        f"{_PIPELINE}\n--json prints the build manifest.",
    ),
    "pipeline verify": Command(
        "[flags] [KEY...]",
        "hash the files of pipelines and compare them with their manifests",
        "Without KEY all pipelines are checked. The exit status is 1 unless all are sound.\n"
        f"{_PIPELINE}",
    ),
    "pipeline rm": Command(
        "[flags] KEY...",
        "remove pipelines; their files stay in the cache until their space is needed",
        f"A pipeline in use stays.\n{_PIPELINE}",
    ),
    "pipeline gc": Command(
        "[flags]",
        "remove what dead processes left, and pipelines over the budget",
        "The least recently used pipelines are removed first.",
    ),
    "generation": Command(
        "COMMAND [flags] ...",
        "a node's numbered, immutable sets of weights: build, ready, prune and more",
        "The same folders that pgetpy.generations uses; --root or PGET_GENERATION_ROOT names one.",
    ),
    "generation lock": Command(
        "[flags] MANIFEST|- [LOCK]",
        "find the digest and version of everything in a manifest, and write them as a lock",
        """\
A manifest is `generation N` and then a line for each file, `REF DEST [sha256:HEX] [-x]`, or
environment, `env NAME PYTHON REQUIREMENT...`. A lock has all digests and is to be checked
in. Without LOCK it is printed. Files whose service gives no sha256 are downloaded: with
--root into the cache of that folder, where build finds them.""",
    ),
    "generation build": Command(
        "[flags] LOCK...",
        "publish the generations of locks and print the folders of their files",
        """\
A lock is a manifest whose lines all have a digest. Files come from the cache by hard
link, or are downloaded into it first; a generation appears once it is complete.""",
    ),
    "generation ready": Command(
        "[flags]",
        "say whether generations are whole; fail unless all of them are",
        """\
Names, sizes and times are compared, and no bytes. Without --min and --max it is about the
highest number.""",
    ),
    "generation diff": Command(
        "[flags] A B",
        "show what differs between two generations or locks",
        "A and B are numbers, or files of locks.",
    ),
    "generation prune": Command(
        "[flags]",
        "remove old generations that no process reads",
        """\
--keep or --min says what stays; what latest leads to always does. Readers are named, and
what they read is removed by a later run.""",
    ),
    "generation verify": Command(
        "[flags] [N...]",
        "hash all files of generations and name those that were changed",
        """\
A changed file has the same bytes in every generation that shares it: these are named,
too. Without N all generations are checked. The exit status is 1 if any is damaged.""",
    ),
    "generation ls": Command("[flags]", "list the generations, the highest number first"),
    "generation exec": Command(
        "[flags] -- PROGRAM [ARGUMENT...]",
        "run a program that keeps its generation from being pruned",
        """\
PGET_GENERATION_FILES is the folder of the files. The folder of generations may be
mounted read-only.""",
    ),
    "generation daemon": Command(
        "[flags] FOLDER",
        "build what is new in a folder of locks, prune, and answer /ready and /metrics",
        """\
Locks are the files of FOLDER that end with .lock. They are built one at a time, the lowest
number first; with --keep or --min, only those that would not be pruned.""",
    ),
    "node": Command(
        "COMMAND [flags] ...",
        "set up nginx as a cache node for many machines, and check nodes",
        "Clients name nodes in PGET_CACHE_NODES_SRV_NAME, as with pget.",
    ),
    "node config": Command(
        "--origins URL,URL [flags]",
        "print the nginx configuration of a cache node",
        """\
The node fetches from these origins alone, in pieces, and each piece once.""",
    ),
    "node check": Command(
        "[flags] URL",
        "try a cache node as a client will, and say what is wrong with it",
        """\
URL is an object of an origin that the node serves, best one larger than 60 MiB. The node
fetches some ten pieces of it. Each fault is printed with what to change; the exit status
is 1 if there is one.""",
    ),
    "version": Command("", "show the version"),
    "completion": Command(
        "|".join(SHELLS), f"print a completion script for {', '.join(SHELLS[:-1])} or {SHELLS[-1]}"
    ),
    "help": Command("[COMMAND]", "show help on a command"),
}
# For each command that does something, one command line, or several below each other.
EXAMPLES: Mapping[str, str] = {
    "download": (
        "pgetpy https://example.com/model.safetensors weights/model.safetensors\n"
        "pgetpy -x https://example.com/model.tar model/"
    ),
    "multifile": "pgetpy multifile manifest.txt",
    "ensure": "pgetpy ensure https://example.com/lora.safetensors hf://OWNER/NAME",
    "prefetch": "pgetpy prefetch --cache-dir /weights weights.txt",
    "snapshot": "pgetpy snapshot hf://OWNER/NAME --include '*.json' --include '*.safetensors'",
    "put": "pgetpy put model.safetensors s3://BUCKET/models/",
    "cache ls": "pgetpy cache ls --json",
    "cache info": "pgetpy cache info",
    "cache path": "pgetpy cache path https://example.com/lora.safetensors",
    "cache ensure": "pgetpy cache ensure https://example.com/lora.safetensors",
    "cache rm": "pgetpy cache rm 3f5a90c1",
    "cache verify": "pgetpy cache verify",
    "cache gc": "pgetpy cache gc --max-bytes 200G",
    "cache pin": "pgetpy cache pin https://example.com/lora.safetensors",
    "cache unpin": "pgetpy cache unpin 3f5a90c1",
    "cache prune": "pgetpy cache prune --older-than 30d",
    "compile-cache load": "pgetpy compile-cache load --location s3://BUCKET/PREFIX --name flux-1.1",
    "compile-cache save": "pgetpy compile-cache save --location s3://BUCKET/PREFIX --name flux-1.1",
    "compile-cache run": "pgetpy compile-cache run --location /mnt/compiled -- python serve.py",
    "compile-cache ls": "pgetpy compile-cache ls --location /mnt/compiled",
    "compile-cache info": "pgetpy compile-cache info --location /mnt/compiled",
    "compile-cache explain": "pgetpy compile-cache explain --location /mnt/compiled",
    "compile-cache verify": "pgetpy compile-cache verify --location /mnt/compiled",
    "compile-cache rm": "pgetpy compile-cache rm --location /mnt/compiled KEY",
    "compile-cache prune": "pgetpy compile-cache prune --location /mnt/compiled",
    "compile-cache publish": "pgetpy compile-cache publish --location /srv/www/compiled",
    "pipeline plan": "pgetpy pipeline plan hf://OWNER/NAME --lora 's3://BUCKET/a.safetensors 0.7'",
    "pipeline key": "pgetpy pipeline key hf://OWNER/NAME@REVISION --dtype float16",
    "pipeline build": "pgetpy pipeline build hf://OWNER/NAME --variant fp16",
    "pipeline ls": "pgetpy pipeline ls --json",
    "pipeline show": "pgetpy pipeline show 3f5a90c1",
    "pipeline verify": "pgetpy pipeline verify",
    "pipeline rm": "pgetpy pipeline rm 3f5a90c1",
    "pipeline gc": "pgetpy pipeline gc --pipeline-max-bytes 100G",
    "generation lock": "pgetpy generation lock --root /srv/pgetpy manifest.txt generation-7.lock",
    "generation build": "pgetpy generation build --root /srv/pgetpy generation-7.lock",
    "generation ready": "pgetpy generation ready --root /srv/pgetpy --min 6 --max 7 --json",
    "generation diff": "pgetpy generation diff --root /srv/pgetpy 6 generation-7.lock",
    "generation prune": "pgetpy generation prune --root /srv/pgetpy --keep 2",
    "generation verify": "pgetpy generation verify --root /srv/pgetpy 7",
    "generation ls": "pgetpy generation ls --root /srv/pgetpy --json",
    "generation exec": "pgetpy generation exec --root /srv/pgetpy --generation 7 -- ./serve",
    "generation daemon": "pgetpy generation daemon --root /srv/pgetpy --keep 2 /etc/pgetpy/locks",
    "node config": (
        "pgetpy node config --origins https://weights.example.com --size 900GiB > nginx.conf\n"
        "nginx -t -c $PWD/nginx.conf"
    ),
    "node check": "pgetpy node check https://weights.example.com/model.safetensors --node 10.0.0.5",
    "completion": "source <(pgetpy completion bash)",
    "help": "pgetpy help cache verify",
}
# Names and summaries, as help and completion list them.
TOP_COMMANDS: Mapping[str, str] = {
    name: row.summary for name, row in COMMANDS.items() if name != "download" and " " not in name
}
SUBCOMMANDS: Mapping[str, Mapping[str, str]] = {
    above: {
        name.removeprefix(f"{above} "): row.summary
        for name, row in COMMANDS.items()
        if name.startswith(f"{above} ")
    }
    for above in ("cache", "compile-cache", "generation", "node", "pipeline")
}
CACHE_COMMANDS = SUBCOMMANDS["cache"]


def usage_of(name: str) -> str:
    """Return the usage of a command, as help shows it."""
    command = "" if name == "download" else f"{name} "
    return f"pgetpy {command}{COMMANDS[name].usage}".rstrip()
