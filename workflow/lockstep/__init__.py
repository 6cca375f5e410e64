"""How do many training runs share one GPU, each getting what it would get alone?

`groups` trains the runs of a group as rows of the same tensors (`model`, `learners`, `data`,
`kernels`); `session` takes a plan's runs in order of worth within some minutes, `store` keeps what
was measured, `archive` plans it and merges it into ``archive/``, `check` proves it on a new card.
"""
