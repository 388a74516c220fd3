"""What the server loads first that processes are forked from, and nobody else.

A scheduler sends SIGTERM to every process of a job. The server has nothing to clean up, and tells how those
end that it has forked: it outlives them, and ends with the process that has started it.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
