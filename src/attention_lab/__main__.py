"""`python -m attention_lab` is `attention-lab`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, added by -m: a stranger's files may be in it

    from attention_lab.cli import main

    sys.exit(main())
