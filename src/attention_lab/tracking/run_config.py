"""The config of a new run: checked, with the files that it names recorded by path and hash."""

from attention_lab.config.components import Config
from attention_lab.config.data_files import check_regular, with_hashes
from attention_lab.config.resolve import RunConfig
from attention_lab.config.validate import check
from attention_lab.tracking.init_from import with_checksum


def resolve(config: Config) -> RunConfig:
    """Check a composed config, and record its data files and the checkpoint of ``init_from``.

    These are recorded as absolute paths and SHA-256 hashes.

    The result works from any directory. Its identity is unchanged while the files are unchanged.

    Raises:
        ConfigError: naming the key, the value and, for a misspelt key, the nearest real one.
    """
    given = RunConfig(config)
    check(given.values)
    check_regular(given.values)
    with given.errors():
        hashed = with_hashes(config)
    return RunConfig(with_checksum(hashed))
