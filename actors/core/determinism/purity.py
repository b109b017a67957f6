"""What of Python and its libraries gives the same every time, by name: an allow-list, and what is excepted from it."""

from __future__ import annotations

import bisect
import builtins
import cmath
import collections
import datetime
import decimal
import fractions
import functools
import heapq
import math
import random
import re


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = words(
    "__future__ abc array ast base64 binascii bisect calendar cmath collections contextlib copy csv "
    "dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq html itertools "
    "json keyword math matplotlib mpmath numbers numpy numpy_financial operator pandas pprint random re "
    "scipy statistics string struct sympy textwrap typing typing_extensions unicodedata warnings zlib "
    "zoneinfo"
)
STARS = {
    module.__name__: frozenset(getattr(module, "__all__", dir(module)))
    for module in (
        bisect,
        cmath,
        collections,
        datetime,
        decimal,
        fractions,
        functools,
        heapq,
        math,
        random,
        re,
    )
}
"""What a star import of Python's own modules brings."""
# A figure becomes a PNG, whose bytes depend on fonts and versions only, which BUILD_TAG names.
PARTLY_PURE = {
    "io": frozenset({"StringIO", "BytesIO"}),
    "sys": words(
        "setrecursionlimit getrecursionlimit maxsize float_info int_info exit stdout stderr version_info "
        "byteorder maxunicode set_int_max_str_digits"
    ),
    "time": frozenset({"sleep", "strptime", "struct_time"}),
}
IMPURE_PATHS = words(
    "numpy.load numpy.save numpy.savez numpy.savez_compressed numpy.loadtxt numpy.savetxt "
    "numpy.genfromtxt numpy.memmap numpy.fromfile numpy.lib numpy.show_config numpy.show_runtime "
    "numpy.empty numpy.empty_like numpy.testing numpy.core pandas.io pandas.core pandas.util pandas.test "
    "pandas.testing pandas.show_versions pandas.ExcelWriter pandas.ExcelFile pandas.HDFStore "
    "pandas.compat scipy.io scipy.datasets scipy.show_config sympy.preview sympy.testing matplotlib.image "
    "matplotlib.pyplot.imread matplotlib.pyplot.imsave random.SystemRandom decimal.threading"
)
IMPURE_PARTS = words(
    "os sys subprocess socket ctypes ctypeslib importlib builtins shutil pathlib tempfile f2py threading "
    "multiprocessing urllib http inspect gc weakref pickle uuid secrets asyncio distutils"
)
RANDOM_PATHS = words(
    "scipy.stats.bootstrap scipy.stats.permutation_test scipy.stats.monte_carlo_test scipy.stats.qmc "
    "scipy.optimize.differential_evolution scipy.optimize.dual_annealing scipy.optimize.basinhopping "
    "scipy.cluster.vq.kmeans scipy.cluster.vq.kmeans2 scipy.sparse.linalg.eigs scipy.sparse.linalg.eigsh "
    "scipy.sparse.linalg.svds sympy.stats.sample"
)
RANDOM_MODULES = frozenset({"random", "numpy.random"})
SEEDS = {"random.seed": "random", "numpy.random.seed": "numpy"}
GENERATORS = frozenset(
    {"random.Random"}
    | {f"numpy.random.{name}" for name in words("default_rng RandomState SeedSequence PCG64 MT19937 Philox SFC64")}
)
BUFFERS = frozenset({"io.StringIO", "io.BytesIO"})
IMPURE_BUILTINS = words("eval exec compile open input id hash globals locals vars breakpoint help copyright")
DISPLAYED = frozenset({"display"})  # a name that every interpreter of ours starts with
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
FILE_METHODS = words(
    "to_excel to_parquet to_pickle to_hdf to_feather to_sql to_stata to_clipboard to_gbq to_orc to_xml "
    "tofile write_text write_bytes read_text read_bytes"
)
TEXT_METHODS = words("to_csv to_json to_html to_string to_markdown to_latex")  # a file only if told one
RANDOM_METHODS = frozenset({"rvs", "sample", "samples"})
INNER_NAMES = words(
    "__globals__ __builtins__ __subclasses__ __base__ __bases__ __mro__ mro __loader__ __spec__ "
    "__import__ __hash__ __code__ __closure__ __reduce__ __reduce_ex__ __getattribute__ __self__ "
    "__module__ __func__ __wrapped__ __file__ __sizeof__ __traceback__ tb_frame f_globals f_builtins "
    "f_back gi_frame __build_class__"
)
# Facts about a value besides the dotted path it may be.
SET, OBJECT = "<set>", "<object>"
SET_METHODS = words("union intersection difference symmetric_difference copy")
ORDER_FREE = words("len sorted min max sum any all set frozenset isinstance bool type")
ORDER_FREE_METHODS = SET_METHODS | words(
    "add update append issubset issuperset isdisjoint discard remove intersection_update difference_update"
)
SHOWS = words("print str repr format ascii display")
LAZY = words("map filter zip reversed enumerate iter object")
BUILTINS = frozenset(dir(builtins))
DOT_OR_END = re.compile(r"\.|$")


def effect_of(path: str) -> str | None:
    """Say why using a dotted path is no pure computation; None if it is."""
    top, *rest = path.split(".")
    if top in PARTLY_PURE:
        return f"uses {path}" if rest and rest[0] not in PARTLY_PURE[top] else None
    prefixes = {path[: dot.start()] for dot in DOT_OR_END.finditer(path)}
    private = any(part.startswith("_") and part not in ("__name__", "__version__", "__doc__") for part in rest)
    return f"uses {path}" if private or prefixes & IMPURE_PATHS or IMPURE_PARTS & set(rest) else None


def is_random(path: str) -> bool:
    """Whether a path draws from a shared generator, or seeds one."""
    if path in RANDOM_MODULES or path in SEEDS or path == "numpy.random.Generator":
        return path in SEEDS
    return path.startswith("random.") or path in RANDOM_PATHS or any(p.startswith("rand") for p in path.split(".")[1:])
