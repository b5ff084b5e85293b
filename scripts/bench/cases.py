"""What is compared with what, in the order of the page."""

from __future__ import annotations

from scripts.bench.boots import BOOTS
from scripts.bench.caches import CACHES
from scripts.bench.comparison import Group
from scripts.bench.extractions import EXTRACTIONS
from scripts.bench.fleet import FLEET
from scripts.bench.objects import OBJECTS
from scripts.bench.pipelines import PIPELINES
from scripts.bench.tensor_cases import TENSORS
from scripts.bench.transfers import LARGE, MANY, SLOW, START

GROUPS = (
    Group("large", "One large file", "A server on the same machine sends one file.", LARGE),
    Group(
        "slow",
        "Servers that are slow or far away",
        "A server on the same machine delays answers or limits connections, as real ones do.",
        SLOW,
    ),
    Group("files", "Many files", "Files by a manifest, and repositories of the Hub.", MANY),
    Group(
        "archives",
        "Archives",
        "An archive is extracted while it arrives, and every file compared.",
        EXTRACTIONS,
    ),
    Group(
        "start", "Start and memory", "What a process costs whatever it is asked to fetch.", START
    ),
    Group("cache", "The weights cache", "Calls of the Python package, timed in a process.", CACHES),
    Group(
        "models",
        "Tensors and LoRAs",
        "From a URL to what a model computes with. Imports are not counted.",
        TENSORS,
    ),
    Group(
        "predictors",
        "Pipelines and the start of predictors",
        "What a machine that serves a model waits for before its first answer.",
        (*BOOTS, *PIPELINES),
    ),
    Group("fleet", "Cache nodes", "Machines that hold what others have fetched.", FLEET),
    Group(
        "objects",
        "Object stores",
        "S3's protocol: public buckets of a plain server, and a Ceph that demands signatures.",
        OBJECTS,
    ),
)
CASES = tuple(case for group in GROUPS for case in group.cases)

# What tells a contributor within minutes that a change has made something slower.
QUICK = ("startup", "big-plain", "big-tls", "paced", "many", "extract", "extract-zst")
