"""
The benchmarks: each module has functions that yield a `Case` for everything that is measured.

* pretraining, objectives   training steps, and the BoW paper's table of speed
* collation, dupmae         batches for the enhanced decoder; DupMAE's head
* contrastive               a step of fine-tuning
* encode, search, merge     vectors, exact search, rankings of shards
* scale, scale_search       memory that does not grow with the corpus
"""
