"""What retrobench is measured against where no library can be installed: released algorithms, written anew."""
