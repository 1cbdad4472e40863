"""circuitscope in Python: every subcommand is a function that gives its JSON document as a dict.

    import circuitscope as cs

    cs.run(prompt="The President of the United", top=3)["next"][0]["text"]          # ' States'
    cs.lens(model="model.gguf", prompt="...", pos="all", arrays=True)["entropy"]    # a NumPy array [layer, pos]
    cs.patch(clean="...", corrupt="...", answer=" Mary", wrong=" John", site="z", by="layer,head")
    cs.graph.prune("graph.json", node_threshold=0.5, output="small.json")
    cs.show("report.html")                                                          # in a notebook

Options are keywords: `_` stands for `-`, a `_` at the end is dropped (`with_="mean"`), a list repeats the option, True is a
flag, and None and False are left out. A dict, or a list of dicts, goes as a file of JSON (`chat=[...]`, `edits={...}`).
What has no name on the command line goes without one here. `cs.lens.__doc__` is `circuitscope lens --help`.

With `arrays=True` numbers become NumPy arrays, in every object that names its `axes`, in their order. The program is the one
that was installed with this module, the one on PATH, or the one that the variable CIRCUITSCOPE names.
"""

import functools
import html
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import warnings


class Error(Exception):
    """What the program says when it cannot do what was asked: one sentence. `status` is its exit status."""

    def __init__(self, sentence, status=None):
        super().__init__(sentence)
        self.status = status


def program():
    """The path of the program."""
    places = [sysconfig.get_path("scripts")]
    if hasattr(sysconfig, "get_preferred_scheme"):  # Python 3.10 and newer
        places.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    elif os.name + "_user" in sysconfig.get_scheme_names():
        places.append(sysconfig.get_path("scripts", os.name + "_user"))
    beside = os.pathsep.join(places)
    name = "circuitscope"
    found = os.environ.get("CIRCUITSCOPE") or shutil.which(name, path=beside) or shutil.which(name)
    if not found:
        raise Error("the program circuitscope is not on PATH; install it, or name it in the variable CIRCUITSCOPE")
    return found


def _call(words):
    try:
        done = subprocess.run([program(), *words], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    except OSError as error:
        raise Error(f"{program()} cannot be started: {error.strerror}") from None
    except ValueError:  # NUL, or half of a surrogate pair
        raise Error("an argument holds a character that no command line can carry; take it out", 2) from None
    if done.returncode:
        said = re.findall(r"^circuitscope: (?!warning: )(.*)", done.stderr, re.MULTILINE)
        raise Error(said[-1] if said else f"the program ended with status {done.returncode}", done.returncode)
    return done.stdout


@functools.lru_cache(maxsize=None)
def _help(path):
    return _call([*path, "--help"])


def _word(value, folder):
    """A value as a word of the command line; dicts are written into a file first."""
    if isinstance(value, dict) or (isinstance(value, list) and value and all(isinstance(v, dict) for v in value)):
        path = os.path.join(folder, f"{len(os.listdir(folder))}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)
        return path
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _options(options, folder):
    for name, value in options.items():
        name = "--" + name.rstrip("_").replace("_", "-")
        plain = isinstance(value, (str, dict, os.PathLike)) or not hasattr(value, "__iter__")
        as_file = isinstance(value, list) and value and isinstance(value[0], dict)
        for one in [value] if plain or as_file else value:
            if one is True:
                yield name
            elif one is not None and one is not False:
                yield f"{name}={_word(one, folder)}"


def _arrays(value, named=None):
    """In every object that names its axes, numbers with so many dimensions become an array; null becomes NaN. An object may
    name the axes of each thing in it, and of what is in those: `named`."""
    import numpy

    if isinstance(value, list):
        return [_arrays(v) for v in value]
    if not isinstance(value, dict):
        return value
    out, axes = {}, value.get("axes")
    if isinstance(axes, dict):
        named, axes = axes, None
    for key, inner in value.items():
        if key in ("axes", "shape"):
            out[key] = inner
            continue
        out[key] = _arrays(inner, named)
        own = (named or {}).get(key, axes)
        if own and isinstance(inner, list):
            try:
                array = numpy.array(inner)
                array = array.astype(float) if array.dtype == object else array
            except (TypeError, ValueError):
                continue
            if array.ndim == len(own) and array.dtype.kind in "biuf":
                out[key] = array
    return out


class Command:
    # A subcommand, called as a function; those below it are its attributes.

    def __init__(self, *path):
        self._path = path

    @property
    def __doc__(self):
        return _help(self._path)

    def __repr__(self):
        return f"<circuitscope {' '.join(self._path)}>"

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return Command(*self._path, name.replace("_", "-"))

    def __dir__(self):
        return re.findall(r"^  ([a-z-]+)  ", _help(self._path), re.MULTILINE)

    def __call__(self, *places, arrays=False, **options):
        # Another word would be a file to open in the window.
        if not self._path or self._path[0] not in dir(Command()):
            raise Error(f"there is no subcommand {' '.join(self._path)}; dir(circuitscope) lists them", 2)
        documents = "--json" in _help(self._path)
        with tempfile.TemporaryDirectory() as folder:
            words = [*self._path, *_options(options, folder), *(["--json"] if documents else [])]
            text = _call([*words, *(["--", *(_word(p, folder) for p in places)] if places else [])])
        if not documents:
            return text.strip()
        document = json.loads(text)
        for sentence in document.get("warnings", []):
            warnings.warn(sentence, stacklevel=2)
        return _arrays(document) if arrays else document


class show:
    """A report (an HTML file, or what `cs.session.report` gave) in a notebook; of a session (FILE.scope) the report is made
    first."""

    def __init__(self, path, height=800):
        path = path.get("output") if isinstance(path, dict) else path
        if not isinstance(path, (str, os.PathLike)):
            raise Error("there is no report to show; give the path of an HTML file or of a session", 2)
        self.height, path = height, os.fspath(path)
        with tempfile.TemporaryDirectory() as folder:
            if path.endswith(".scope"):
                session, path = path, os.path.join(folder, "report.html")
                Command("session", "report")(session, output=path)
            with open(path, encoding="utf-8") as file:
                self.text = file.read()

    def _repr_html_(self):
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe srcdoc="{html.escape(self.text)}" style="{style}"></iframe>'


def tensors(path):
    """The tensors of a safetensors file, as `cs.run(capture=..., output=path)` writes it: NumPy arrays by name."""
    import numpy

    types = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1"}
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    flat = {n: numpy.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]) for n, t in header.items()}
    return {name: values.reshape(header[name]["shape"]) for name, values in flat.items()}


def __getattr__(name):
    return getattr(Command(), name)


def __dir__():
    return sorted([*globals(), *dir(Command())])
