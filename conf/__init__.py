"""The settings of all commands; a package, so that Hydra finds them where Palisade is installed."""
