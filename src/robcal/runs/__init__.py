"""Run directories, and what is measured of them and of plain arrays.

`train` makes them, `directory` reads them; scores, predictions and measurements are kept in them. `level_sources`
says where the levels of training come from, `scores` scores a split, `measure` and `shift` predict,
`fidelity` compares scores with strong attacks. `audit` makes results of one classifier, `collect` of runs side by side.
It imports `training`, `report` and what lies below.
"""
