"""How far measured ratios agree with recorded ones: tables, statistics, plots and text."""
