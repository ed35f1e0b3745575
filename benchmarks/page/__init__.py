"""What docs/performance.md is made of: pure functions from results to Markdown and SVG.

`values` finds and formats figures; `tables` and `svg` draw them; `goals` holds what is to be reached; `workloads`,
`peers` and `profiles` are sections and `sections` puts the page together. `benchmarks.performance_page` reads and
writes the files. What a result file lacks is left out of the page.
"""
