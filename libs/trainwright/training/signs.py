"""By what a failure is recognised: one literal table of signs; the first that fits names the class.

A sign looks at the exception that ended the run, never at other text that the run wrote: a log line about
memory proves nothing. Where a sign may mean two things, the class is the one that changes less: a failure of
the machine is claimed only for what no script can cause.
Not here: reading tracebacks (traces.py), exit codes and signals (classify.py).
"""

import re
from dataclasses import dataclass

from trainwright.contracts.failure import FailureClass
from trainwright.training.traces import Trace

OWN_SCRIPT_HINT = "Fix the line shown, then submit again."
RECIPE_HINT = "Check the task's parameters and data; if they are right, the recipe itself has a fault."


@dataclass(frozen=True, slots=True)
class Sign:
    """What must hold for a class: names of exceptions, a pattern in the sentence, in the source line, on the way.

    `line` is searched in the user's own failing line, `code` in the part of it that failed where Python marks it,
    `through` in the paths of the traceback's last frames.
    """

    failure_class: FailureClass
    hint: str
    names: str = ""
    says: str = ""
    code: str = ""
    line: str = ""
    through: str = ""

    def fits(self, trace: Trace) -> bool:
        """Return whether `trace` shows this sign."""
        if self.names and not re.fullmatch(self.names, trace.exception):
            return False
        if self.says and not re.search(self.says, trace.sentence):
            return False
        if self.code and not (trace.own and re.search(self.code, trace.own.marked or trace.own.code)):
            return False
        if self.line and not (trace.own and re.search(self.line, trace.own.code)):
            return False
        return not self.through or any(re.search(self.through, frame.file) for frame in trace.frames[-8:])


def sign_of(trace: Trace) -> Sign | None:
    """Return the first sign that fits, or None."""
    return next((sign for sign in SIGNS if sign.fits(trace)), None)


_MEMORY = FailureClass.OUT_OF_MEMORY
_DIVERGED = FailureClass.DIVERGED
_HUNG = FailureClass.HUNG
_NODE = FailureClass.NODE_BAD
_DATA = FailureClass.DATA_ERROR
_USER = FailureClass.USER_ERROR
_ENVIRONMENT = FailureClass.ENVIRONMENT_ERROR
_UNKNOWN = FailureClass.UNKNOWN

_SMALLER = "Use a smaller batch, or ask for a GPU with more memory; `repairable:` lets Trainwright do the first."
_PIECES = "Use a smaller batch, read the data in pieces, or use fewer data loader workers."
_DISK = "Free some disk space on the worker."
_SHARED_MEMORY = "Give /dev/shm more room, or use fewer data loader workers."
_LOWER = "Lower the learning rate, clip gradients, or look for a division by zero or a log of zero."
_INSTALL = "Install what is missing where the worker runs."
_DRIVER = "Check the worker's GPU driver and its build of the framework; `nvidia-smi` there shows both."
_ASK_GPU = "Ask for GPUs with `resource_requirements: {gpu: …}`: a run sees only those of its task."
_READ = "Check the data's path and content; a task's files lie in its work folder."
_DAMAGED = "The file is damaged or cut short, or not of this kind: make or copy it again."
_VALUE = "A row of the data is not as the script expects it: correct the row, or skip such rows."
_NETWORK = "Check the worker's network and the address; data that is uploaded with the task needs neither."

SIGNS: tuple[Sign, ...] = (
    # Memory. Frameworks have their own names; numpy's is _ArrayMemoryError.
    Sign(_MEMORY, _SMALLER, names="OutOfMemoryError|ResourceExhaustedError|AcceleratorOutOfMemoryError"),
    Sign(_MEMORY, _SMALLER, says=r"\b(CUDA|HIP|MPS backend|XPU|NPU|MUSA)( driver)?( error)?: ?out of memory"),
    Sign(_MEMORY, _SMALLER, says=r"\b(CUDA|HIP|MPS backend|XPU|NPU|MUSA) out of memory"),
    Sign(_MEMORY, _SMALLER, says=r"\bCU(BLAS|DNN|FFT|SOLVER|SPARSE)_(STATUS_)?ALLOC_FAILED\b"),
    Sign(
        _MEMORY,
        _SMALLER,
        says=r"RESOURCE_EXHAUSTED: (Out of memory|Failed to allocate|Error allocating|Error loading program)"
        r"|OOM when allocating|(cuda|hip)ErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
        r"|Cuda failure \d+ 'out of memory'|Failed to CUDA (host |c|m)?alloc"
        r"|No executable batch size found",
    ),
    Sign(_MEMORY, _SMALLER, says=r"Unable to find a valid cuDNN algorithm|FIND was unable to find an engine"),
    Sign(_MEMORY, _PIECES, names=r"\w*MemoryError"),
    Sign(
        _MEMORY,
        _PIECES,
        says=r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc|\bbad allocation",
    ),
    Sign(
        _MEMORY,
        _PIECES,
        says=r"Cannot allocate memory|Unable to allocate [\d.]+ [KMGT]iB|memory allocation of \d+ bytes failed",
    ),
    Sign(_MEMORY, _PIECES, says=r"DataLoader worker \(pid\S* \d+\) is killed by signal: Killed"),
    # What the loss has become, said by the script or its framework.
    Sign(_DIVERGED, _LOWER, names=r"FloatingPointError|NanLossDuringTrainingError|\w*Diverge[dn]?\w*"),
    Sign(
        _DIVERGED, _LOWER, says=r"returned nan values in its|(?i:loss|training|model) (has )?(diverged|exploded)"
    ),
    Sign(
        _DIVERGED,
        _LOWER,
        says=r"(?i)\b(loss|gradients?|grad(ient)? norm|weights|logits|activations?)\b[^\n]{0,80}?"
        r"(\b(is|are|was|were|became|become|got|hit|of|or|to|in|has|have|contains?)\b|[=:]) *(a )?"
        r"(['\"]?\b(nan|inf)\b|infinite|not finite|non-?finite)",
    ),
    Sign(
        _DIVERGED,
        _LOWER,
        says=r"(?i)(nan|inf|non-?finite)( (or|and/or) inf)?( values?)?( detected| found)? "
        r"(in )?(the )?(training )?(loss|gradient)",
    ),
    Sign(_DIVERGED, _LOWER, says=r"(?i)^\w+: (nan|inf|nans)( values?)? (detected|found|encountered)\b"),
    Sign(_DIVERGED, _LOWER, names="OverflowError", line=r"\bloss|\bexp\("),
    Sign(_DIVERGED, _LOWER, says=r"Detected nan and/or inf values in|loss scale (already at minimum|reached)"),
    Sign(
        _DIVERGED,
        _LOWER,
        says=r"probability tensor contains either `inf`, `nan`|found invalid values:\s+tensor\(\[*nan",
    ),
    Sign(_DIVERGED, _LOWER, says=r"Input .*contains (NaN|infinity)", through=r"sklearn/metrics/"),
    Sign(_DIVERGED, _LOWER, names=r"_?LinAlgError", says="non-finite values|infs or NaNs"),
    Sign(_DIVERGED, _LOWER, names="AssertionError", line=r"is_?nan|is_?finite|is_?inf"),
    # A machine that no script can break.
    Sign(
        _NODE,
        "Take the GPU out of use and look at `nvidia-smi -q`.",
        says=r"(?i)uncorrectable (ECC|NVLink) error|ECC error encountered",
    ),
    Sign(
        _NODE,
        "Look at the worker's kernel log.",
        says=r"(?i)GPU has fallen off the bus|GPU is lost|NVRM: Xid|hardware stack error",
    ),
    Sign(_NODE, "Look at the worker's kernel log and its disks.", names="OSError|IOError", says=r"\[Errno 5\] "),
    # Places on the machine.
    Sign(
        _ENVIRONMENT,
        _SHARED_MEMORY,
        says=r"out of shared memory|killed by signal: Bus error|unable to (write to|resize) file </?torch_",
    ),
    Sign(
        _ENVIRONMENT,
        _DISK,
        says=r"No space left on device|Disk quota exceeded|database or disk is full"
        r"|Not enough free space|\d+ requested and \d+ written",
    ),
    Sign(
        _ENVIRONMENT,
        _DISK,
        says=r"PytorchStreamWriter failed writing|inline_container\.cc:\d+\] \. unexpected pos",
    ),
    Sign(
        _ENVIRONMENT,
        "A file grew beyond the worker's limit: raise `ulimit -f` there.",
        says=r"\[Errno 27\] File too large",
    ),
    Sign(
        _ENVIRONMENT,
        "Raise `ulimit -n` on the worker, or use fewer data loader workers.",
        says=r"Too many open files",
    ),
    Sign(
        _ENVIRONMENT,
        "Raise the limit of processes on the worker, or use fewer threads and workers.",
        says=r"can't start new thread|\[Errno 11\] Resource temporarily unavailable",
    ),
    Sign(
        _ENVIRONMENT,
        "That folder cannot be written: write to the run's own folder (`run.output`).",
        says=r"\[Errno 30\] |Read-only file system",
    ),
    Sign(
        _ENVIRONMENT,
        "The worker's user may not do that: change the path's owner, or write to the run's own folder.",
        names="PermissionError",
    ),
    Sign(
        _ENVIRONMENT,
        "The worker's network file system has gone: mount it again.",
        says=r"Stale (NFS )?file handle|Transport endpoint is not connected",
    ),
    # What is installed.
    Sign(_USER, OWN_SCRIPT_HINT, says=r"partially initialized module|attempted relative import"),
    Sign(
        _ENVIRONMENT,
        _INSTALL,
        names="ModuleNotFoundError|PackageNotFoundError|DistributionNotFound|VersionConflict",
    ),
    Sign(
        _ENVIRONMENT,
        _INSTALL,
        names="ImportError",
        says=r"\(.*(site-packages|dist-packages)|\(unknown location\)|\.so\b|requires|[Ii]nstall",
    ),
    Sign(_USER, OWN_SCRIPT_HINT, names="ImportError", says=r"cannot import name '\w+' from '\w+' \(/"),
    Sign(_ENVIRONMENT, _INSTALL, names="ImportError"),
    Sign(
        _ENVIRONMENT,
        _INSTALL,
        says=r"cannot open shared object file|undefined symbol|version `\w+_[\d.]+' not found"
        r"|Failed to find C compiler|No working C\+\+ compiler",
    ),
    Sign(
        _ENVIRONMENT, _INSTALL, says=r"size changed, may indicate binary incompatibility|compiled using NumPy 1\.x"
    ),
    Sign(
        _ENVIRONMENT,
        "That program is not installed where the worker runs, or not on its PATH.",
        names="FileNotFoundError",
        through=r"/subprocess\.py$|asyncio/unix_events|os>$",
    ),
    # GPUs and their software.
    Sign(
        _USER,
        "An index is out of range on the GPU (a label, an embedding): run once on the CPU to see where.",
        says=r"device-side assert",
    ),
    Sign(_USER, _ASK_GPU, says=r"invalid device ordinal|Invalid device id"),
    Sign(_ENVIRONMENT, _ASK_GPU, says=r"No CUDA GPUs are available|no CUDA-capable device is detected"),
    Sign(
        _ENVIRONMENT,
        _ASK_GPU,
        says=r"deserialize object on a CUDA device|\b(?i:no (GPUs?|CUDA)( is| are)? (found|available))"
        r"|(?i:cuda|gpu|mps|rocm) (is |are )?(not available|unavailable|is required|required)",
    ),
    Sign(_ENVIRONMENT, _ASK_GPU, names="AssertionError", line=r"cuda\.is_available|cuda\.device_count"),
    Sign(
        _ENVIRONMENT,
        _DRIVER,
        says=r"Found no NVIDIA driver|not compiled with CUDA|driver (on your system )?is too old"
        r"|driver version is insufficient|no kernel image is available|CUDA unknown error"
        r"|system not yet initialized|devices are busy or unavailable"
        r"|forward compatibility was attempted",
    ),
    Sign(
        _HUNG,
        "One rank waited for another that never came; the stacks of all ranks tell which.",
        says=r"Watchdog caught collective operation timeout",
    ),
    Sign(
        _ENVIRONMENT,
        "Run with NCCL_DEBUG=INFO: often the network interface, or too small a /dev/shm.",
        says=r"unhandled system error|ncclSystemError",
    ),
    Sign(
        _UNKNOWN,
        "Set CUDA_LAUNCH_BLOCKING=1 to see which call fails.",
        says=r"CUDA error: |CU(BLAS|DNN)_STATUS_|ncclUnhandledCudaError",
    ),
    # Processes of the run that have gone.
    Sign(
        _UNKNOWN,
        "Something ended a process of the run; the worker's kernel log may tell what.",
        names="BrokenProcessPool|ProcessExitedException|BrokenPipeError|EOFError|ConnectionResetError|WorkerCrashedError",
        through=r"multiprocessing/|concurrent/futures/|torch/utils/data/",
    ),
    Sign(
        _UNKNOWN,
        "Something ended a process of the run.",
        says=r"terminated with signal|killed by signal|died with <Signals\.|BrokenProcessPool",
    ),
    Sign(_UNKNOWN, "Somebody interrupted it.", names="KeyboardInterrupt"),
    # Data.
    Sign(
        _USER,
        "Make the folder first: `os.makedirs(folder, exist_ok=True)`; the run's own one is `run.output`.",
        names="FileNotFoundError",
        code=r"""open\([^)]*,\s*(mode=)?["'][wax]|\.(save\w*|dump|to_(csv|parquet|json)|write_\w+|mkdir)\(|makedirs\(""",
    ),
    Sign(_DATA, _READ, names="FileNotFoundError|IsADirectoryError|NotADirectoryError|DataError|EmptyDataError"),
    Sign(
        _DATA,
        _DAMAGED,
        names="BadZipFile|BadGzipFile|LZMAError|ReadError|UnpicklingError|UnidentifiedImageError|SafetensorError"
        r"|Arrow\w+|Parquet\w*|DecompressionBombError|ZstdError",
    ),
    Sign(
        _DATA,
        _DAMAGED,
        says=r"PytorchStreamReader failed|failed finding central directory|Invalid magic number|invalid load key"
        r"|Ran out of input|pickle data was truncated|end-of-stream marker|while decompressing"
        r"|image file is truncated|broken data stream|[Pp]arquet magic bytes|file signature not found"
        r"|[Tt]runcated file|file is not a database|disk image is malformed|No data left in file"
        r"|Invalid data stream|magic string is not correct|unpack requires a buffer"
        r"|Unexpected end of (data|file|input)|File is not an LMDB file",
    ),
    Sign(_DATA, _DAMAGED, names="KeyError|IndexError|EOFError", through=r"torch/serialization|_unpickler|/pickle"),
    Sign(
        _DATA,
        _DAMAGED,
        names="ValueError|EOFError|OSError",
        through=r"numpy/lib/(_?format|_?npyio)|zipfile|gzip|/tarfile",
    ),
    Sign(
        _DATA,
        _VALUE,
        names=r"\w*DecodeError|ParserError|ScannerError|ParseError|IntCastingNaNError|OutOfBounds\w*|InvalidDataError"
        r"|ColumnNotFoundError|Schema\w*Error|LibsndfileError",
    ),
    Sign(_DATA, _VALUE, names="Error", through=r"/(csv|base64)\.py"),
    Sign(
        _DATA,
        _VALUE,
        names="Error",
        says=r"line contains NUL|field larger than field limit|unexpected end of data|new-line character seen",
    ),
    Sign(_DATA, _VALUE, names="DatasetGenerationError|DataFilesNotFoundError|CastError"),
    Sign(
        _USER,
        "Correct the value in the task's parameters.",
        names="ValueError",
        code=r"argv|\bargs\.|environ|parameters|config|options|settings",
    ),
    Sign(
        _DATA,
        _VALUE,
        names="ValueError",
        says=r"could not convert string|invalid literal for int|(does not|doesn't) match format"
        r"|unconverted data remains|Invalid isoformat|Unable to parse string|Input .*contains (NaN|infinity)"
        r"|Unknown datetime string|Usecols do not match columns",
    ),
    Sign(_DATA, _VALUE, names="InvalidOperation|DateParseError"),
    Sign(_DATA, _VALUE, names="ComputeError", says="could not parse"),
    Sign(_DATA, _VALUE, names="ValueError", through=r"/pandas/io/"),
    Sign(
        _DATA,
        _VALUE,
        names="ValueError",
        says=r"(not enough|too many) values to unpack",
        line=r"\.split\(|\b(row|line|record|fields|cells|parts|columns)\b",
    ),
    Sign(
        _DATA,
        "The data has no such column: correct its name, or the data.",
        names="KeyError",
        through=r"/pandas/|/polars/|/datasets/",
    ),
    Sign(
        _DATA,
        _VALUE,
        names="KeyError|IndexError",
        code=r"\b(row|record|sample|example|fields|cells|parts|columns|json\.loads\(.*\))\[",
    ),
    # The network.
    Sign(
        _USER,
        "Check the name and the token.",
        says=r"\b(401|403|404)\b.*(Client Error|Not Found|Unauthorized|Forbidden)|HTTP Error 40[134]",
    ),
    Sign(
        _ENVIRONMENT,
        _NETWORK,
        names=r"\w*ConnectionError|Connection(Refused|Reset|Aborted)Error|ConnectTimeout|ReadTimeout|\w*ConnectError|URLError|gaierror"
        r"|HTTPError|SSLError|MaxRetryError|IncompleteRead|ProtocolError|ChunkedEncodingError|OfflineModeIsEnabled|LocalEntryNotFoundError",
    ),
    Sign(
        _ENVIRONMENT,
        _NETWORK,
        says=r"[Cc]ould(n't| not) connect to|Temporary failure in name resolution|Name or service not known"
        r"|Connection refused|Network is unreachable|No route to host|\b50[0234] Server Error",
    ),
    Sign(_ENVIRONMENT, _NETWORK, names="TimeoutError|timeout", through=r"/socket\.py|/ssl\.py|urllib|http/"),
    Sign(
        _ENVIRONMENT,
        "A port is taken, or another process of the run cannot be reached.",
        says=r"Address already in use|EADDRINUSE|DistNetworkError|DistStoreError|Rendezvous\w+Error",
    ),
    # The task's own parameters.
    Sign(
        _USER,
        "Nobody can answer a run: take what it asks for from its parameters.",
        says="EOF when reading a line",
    ),
    Sign(_USER, "Correct the parameters named, then submit again.", names="ValidationError"),
    Sign(
        _USER,
        "Correct the script's arguments (`parameters.args`).",
        names="ArgumentError|UsageError|BadParameter|ConfigAttributeError",
    ),
)
