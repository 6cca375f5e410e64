"""How do many training runs share one GPU, each getting what it would get alone?

`groups` says which runs go together; `training` trains those of a group as rows of the same tensors
(`model`, `learners`, `data`, `kernels`), and `results` measures them. `session` takes a plan's runs
in order of worth within some minutes, with `workers` beside it; `store` keeps what was measured,
`archive` plans it and merges it into ``archive/``, `check` proves it on a new card.
"""
