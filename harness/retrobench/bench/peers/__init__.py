"""The peers that cannot be installed as libraries: released algorithms, written anew."""
