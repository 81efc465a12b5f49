"""``python -m twdm_async`` is the command ``twdm``."""

from twdm_async.cli import main

if __name__ == "__main__":
    main()
