"""The table of cases: its columns, cells and checks, and the files that its rows name."""
