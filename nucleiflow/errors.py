"""What can go wrong, named by who must act. The command line prints one line for each of these."""

UNFINISHED, SOME_FAILED, HOLES = 1, 3, 4  # exit codes of a batch that no single error ends
STOPPED = 130  # that of a command, as a shell tells of Ctrl-C


class NucleiflowError(Exception):
    """Base of every error we raise on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(NucleiflowError):
    """An option or job file is wrong: the user changes it."""

    exit_code = 2


class SlideError(NucleiflowError):
    """An input image is missing, damaged or unsupported: the user replaces it."""

    exit_code = 2


class ModelError(NucleiflowError):
    """A model does not keep the contract: the user gives another one."""

    exit_code = 2


class StoreError(NucleiflowError):
    """The output cannot be written or belongs to another run."""

    exit_code = 2


class RunError(NucleiflowError):
    """The run itself failed through no fault of the input: ours, or the machine's."""


def printable(text: str) -> str:
    r"""Text without what would steer a terminal: files may hold anything as a name.

    >>> printable("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(one if one.isprintable() else "?" for one in text)


def explain(error: BaseException) -> str:
    """One line: our own errors as they are, others with their kind. Notes say where."""
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()) if "tile" in note)
    text = printable(" ".join(str(error).split()))[:400]
    if isinstance(error, NucleiflowError):
        return text + where
    if isinstance(error, MemoryError):
        return f"memory ran out{where}: use fewer workers, smaller tiles, or a larger machine"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'input or output'}{where}"
    return f"unexpected {type(error).__name__}: {text}{where}; see --debug"
