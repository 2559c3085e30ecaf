"""Studies: seeds, sides, stages and a table with paired intervals, each made again by one command."""
