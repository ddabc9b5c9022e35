"""`python -m attention_lab` is `attention-lab`."""

import sys

from attention_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
