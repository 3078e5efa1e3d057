"""What the command line's exit codes mean."""

EXIT_FAILED_UNITS = 1  # or damaged ones, or a store that takes no more
EXIT_NOT_VERIFIED = 1
EXIT_NOT_TRACKED = 1
EXIT_NOT_READY = 1  # of doctor
EXIT_NOT_PUBLISHED = 1  # a server refused
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # the same command continues
