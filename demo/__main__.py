"""`python -m demo`: a door that Ctrl-C may close before the room behind it is even lit."""

import sys

if __name__ == "__main__":
    try:
        from demo.commands import main

        sys.exit(main())
    except KeyboardInterrupt:  # while importing: nothing has been started
        sys.exit(130)
